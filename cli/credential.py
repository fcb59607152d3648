"""`tenantry credential ...`: sealed here, stored sealed, followed by events."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cli.command import INCOMPLETE, Session, flag, now, tell
from cli.files import read_text, write_atomically
from cli.forecast import credential_object, known
from cli.forecast import expiring as expire_within
from cli.intake import read_credential
from cli.offboarding import told
from cli.replacement import forget
from cli.rotation import stored
from cli.sealing import SealedCredential, held_credential, make, parse_sealed, store_sealed
from cli.state import State, opened
from cli.trail import entry, show_entries
from cli.verifying import exit_code, few, show_verification, slots_of, verified, without_credential
from crypto.keyring import fingerprint as known_by
from crypto.keyring import parse_public
from crypto.stores import credential_name
from domain import credential as credentials
from domain.errors import NotAllowed
from domain.ids import ENTRA, credential_stream, moment, slot, tenant_id

__all__ = ["expiring", "history", "list_", "make", "put", "revoke", "seal", "set_", "store_sealed", "verify"]

LISTED = ("tenant", "slot", "kind", "identity", "state", "expires", "days_left", "why")

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Directory id (GUID).")]
Kind = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        help="app-certificate (with --client-id and --certificate), app-secret (with --client-id) or service-account "
        "(with --username; --client-id if it signs in through an application of its own).",
        show_default=False,
    ),
]
ClientId = Annotated[
    str, typer.Option(metavar="GUID", help="Application (client) id; for a service account a public client.")
]
Username = Annotated[str, typer.Option(metavar="NAME", help="User name of a service account.")]
SlotOption = Annotated[
    str,
    typer.Option("--slot", metavar="SLOT", help="entra, or exchange-server for a tenant's own Exchange Server."),
]
Certificate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="PEM or PFX file with the certificate and its private key.")
]
PasswordFd = Annotated[
    int | None,
    typer.Option(
        "--password-fd",
        metavar="N",
        min=0,
        help="Read the client secret, the password, or that of the PFX file, from this file descriptor; 0 is standard "
        "input. One newline at its end is dropped.",
    ),
]
Expires = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="ISO 8601: when the client secret or the password expires. A certificate says it itself."
    ),
]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the record.")]
NoVerify = Annotated[bool, flag("--no-verify", help="Do not try it before it takes the place of another.")]


def seal(
    session: Session,
    public_key: Annotated[
        Path, typer.Option(metavar="FILE", help="The vault's public key (`tenantry vault public-key`).")
    ],
    tenant: Annotated[str, typer.Option(metavar="GUID", help="Directory id (GUID).")],
    kind: Kind,
    client_id: ClientId = "",
    username: Username = "",
    slot_: SlotOption = ENTRA,
    certificate: Certificate = None,
    password_fd: PasswordFd = None,
    expires: Expires = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="WORDS", help="The key's eight words, as you know them; another key is refused."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the sealed credential to this file.")] = None,
) -> None:
    """Seal a credential, offline: needs the public key only. The secret comes from a prompt or standard input.

    Example: `tenantry credential seal --public-key vault.jwks --tenant ID --kind app-secret --client-id ID --out
    sealed.json`

    With a PFX file: `... --kind app-certificate --client-id ID --certificate app.pfx --password-fd 7 7<password.txt`
    """
    key = parse_public(read_text(public_key, "public key"))
    words = known_by(key)
    if fingerprint is not None and fingerprint.strip().lower() != words:
        why = f"its fingerprint is {words}, which is not the one given"
        raise NotAllowed(f"seal to {public_key}", why, "Ask for the key again, and have both words read out.")
    of, which, end = tenant_id(tenant), slot(slot_), _expiry(kind, expires)
    payload = read_credential(kind, client_id, username, certificate, password_fd)
    sealed = _expiring(make(of, which, key, payload), end)
    _warn(sealed)
    content = msgspec.json.format(msgspec.json.encode(sealed), indent=2)
    if out:
        write_atomically(out, content + b"\n", 0o600)
        if session.json:
            facts = {"file": str(out), "tenant": sealed.tenant, "slot": sealed.slot}
            session.print_json({**facts, "key": key.thumbprint, "fingerprint": words})
        session.say(f"Sealed to the key of fingerprint {words}: {out}. Store it with `tenantry credential put {out}`.")
    else:
        typer.echo(content.decode())


def set_(
    session: Session,
    tenant: TenantArgument,
    kind: Kind,
    client_id: ClientId = "",
    username: Username = "",
    slot_: SlotOption = ENTRA,
    certificate: Certificate = None,
    password_fd: PasswordFd = None,
    expires: Expires = None,
    no_verify: NoVerify = False,
) -> None:
    """Seal a credential here and store it. The secret comes from a prompt, or standard input when that is no terminal.

    One that takes the place of another has to sign in first, or the former one stays. Exit code 3 when something of the
    plan cannot be read with it.

    Example: `tenantry credential set TENANT --kind service-account --username reader@contoso.com`

    From a password store: `... --password-fd 7 7< <(pass show contoso)`
    """
    state = opened(session)
    known = state.tenant(tenant)
    which, end = slot(slot_), _expiry(kind, expires)
    payload = read_credential(kind, client_id, username, certificate, password_fd)
    sealed = _expiring(make(known.id, which, state.public_key(), payload), end)
    _store(session, state, sealed, verify=not no_verify)


def put(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `seal` wrote.")],
    no_verify: NoVerify = False,
) -> None:
    """Store a credential that was sealed elsewhere. One that takes the place of another has to sign in first.

    Exit code 3 when something of the plan cannot be read with it.

    Example: `tenantry credential put sealed.json`
    """
    state = opened(session)
    _store(session, state, parse_sealed(read_text(file, "sealed credential"), file), verify=not no_verify)


def verify(
    session: Session,
    tenant: TenantArgument,
    slot_: Annotated[str | None, typer.Option("--slot", metavar="SLOT", help="Only this credential.")] = None,
) -> None:
    """Sign in once to each service of the tenant's plan, and show permissions, licences and expiry.

    It tries a credential that stands rejected too: that is how to find out that the cause is mended. Exit code 3 when
    something of the plan cannot be read, 1 when nothing was signed in to.

    Example: `tenantry credential verify TENANT`
    """
    state = opened(session)
    found = state.tenant(tenant)
    result = verified(state, found, slots_of(state, found, slot(slot_) if slot_ else None))
    untried = [] if slot_ else without_credential(state, found)
    show_verification(session, state, found, result, untried)
    if code := exit_code(result) or (INCOMPLETE if untried else 0):
        raise typer.Exit(code)


def list_(session: Session) -> None:
    """List the credentials of all tenants: kind, identity, standing, expiry and days left.

    Example: `tenantry credential list --json`
    """
    rows = [credential_object(one) for one in known(opened(session))]
    session.show(rows, LISTED, "No credentials. Set one with `tenantry credential set`.")


def expiring(
    session: Session,
    days: Annotated[int, typer.Option(min=0, max=3650, metavar="N", help="Within so many days.")] = 30,
) -> None:
    """List the credentials that expire soon, the next one first. Exit code 3 when there are any.

    A certificate says when it expires; a client secret or a password is seen here if it was sealed with --expires.

    Example: `tenantry credential expiring --days 60 --json`
    """
    rows = [credential_object(one) for one in expire_within(opened(session), timedelta(days=days))]
    session.show(rows, LISTED, f"No credential is known to expire within {days} days.")
    if rows:
        raise typer.Exit(INCOMPLETE)


def history(session: Session, tenant: TenantArgument, slot_: SlotOption = ENTRA) -> None:
    """Show everything that happened to a credential: set, used, rejected, rotated, revoked.

    Example: `tenantry credential history TENANT --slot exchange-server`
    """
    state = opened(session)
    known = state.tenant(tenant)
    stream = credential_stream(known.id, slot(slot_))
    show_entries(session, [entry(one) for one in state.store.read(stream)])


def revoke(session: Session, tenant: TenantArgument, reason: Reason, slot_: SlotOption = ENTRA) -> None:
    """Revoke a credential: it is not released any more, and its envelope is deleted.

    Example: `tenantry credential revoke TENANT --reason "the account was deleted"`
    """
    state = opened(session)
    known = state.tenant(tenant)
    held = held_credential(state, known.id, slot(slot_))
    if held.state is None:
        raise NotAllowed("revoke the credential", "there is none", "See `tenantry credential list`.")
    changed = state.decide(held, lambda found: credentials.revoke(found, reason) if found else [], "credential revoke")
    kept = state.secrets.delete(credential_name(known.id, slot(slot_)))
    forget(state, known.id, slot(slot_))
    if session.json:
        session.print_json({"tenant": known.id, "slot": slot_, "state": held.state.state, "retained": kept})
    session.say(f"{'Revoked' if changed else 'Revoked before:'} the {slot_} credential of {known.name}.")
    if kept:
        session.say(told(kept), "yellow")


def _store(session: Session, state: State, sealed: SealedCredential, *, verify: bool) -> None:
    _warn(sealed)
    done = stored(state, sealed, verify=verify)
    one, result = done.credential, done.verification
    if session.json:
        facts = {name: getattr(one, name) for name in ("tenant", "slot", "kind", "identity", "expires", "state")}
        session.print_json({**facts, "verified": result is not None, "changed": done.changed})
    said = "Stored the" if done.changed else "Nothing to change: this is the stored"
    session.say(f"{said} {one.kind} of {one.identity} for {one.tenant}, sealed to {one.vault_key}.")
    if result is None:
        if done.changed:
            session.say(f"It has not signed in yet; `tenantry credential verify {one.tenant}` tries it.")
        return
    session.say(f"It signs in to {few([one.resource for one in result.resources if one.outcome == 'verified'])}.")
    for lacking in (one for one in result.resources if one.outcome != "verified" or one.unreadable):
        session.say(f"{lacking.resource}: {lacking.detail or lacking.unreadable}", "yellow")
    if code := exit_code(result):
        raise typer.Exit(code)


def _expiry(kind: str, expires: str | None) -> datetime | None:
    if expires is not None and kind == "app-certificate":
        raise NotAllowed("seal the credential", "a certificate says itself when it expires", "Leave --expires out.")
    return None if expires is None else moment(expires)


def _expiring(sealed: SealedCredential, end: datetime | None) -> SealedCredential:
    return msgspec.structs.replace(sealed, expires=end) if end else sealed


def _warn(sealed: SealedCredential) -> None:
    if sealed.expires is not None and sealed.expires <= now():
        tell(f"The credential of {sealed.identity} expired on {sealed.expires:%Y-%m-%d}: it will not sign in.")
