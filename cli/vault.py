"""`tenantry vault ...`: the vault's keys over their life. The keys themselves stay with the keyholder."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from cli.command import INCOMPLETE, Session, flag, operator, tell
from cli.files import write_atomically
from cli.offboarding import told
from cli.state import State, opened
from cli.views import plain
from crypto.keyring import fingerprint, parse_public
from domain.errors import NotAllowed
from domain.events import VaultKeyCreated
from domain.ids import VAULT_KEYS
from vault.custody import checked_thumbprint
from vault.keys import RESTORE
from vault.messages import Left
from vault.resealing import WHY

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Thumbprint, see `tenantry vault keys`.")]
MOST_TOLD = 10


class Outcome(NamedTuple):
    """How much was resealed; of what was left as it is, the first and the number."""

    resealed: int
    left: list[Left]
    left_count: int


def keys(session: Session) -> None:
    """List the vault's key versions, and how much of what is stored is sealed to each.

    Exit code 3 when something that is stored cannot be read: nobody knows what that is sealed to.

    Example: `tenantry vault keys --json`
    """
    state = opened(session)
    created = {one.event.key: one.at for one in state.store.read(VAULT_KEYS) if isinstance(one.event, VaultKeyCreated)}
    found = state.keyholder.vault_key_set(count=True)
    rows = [{**plain(one), "created": created.get(one.key)} for one in found.keys]
    columns = ("version", "key", "state", "sealed", "custody", "created")
    session.show(rows, columns, "No vault key. Run `tenantry init`.")
    for name in found.unreadable:
        tell(f"Not counted: {name} in the secret store cannot be read. {RESTORE}")
    if found.unreadable_count > len(found.unreadable):
        tell(f"... and {found.unreadable_count - len(found.unreadable)} more.")
    if found.unreadable:
        raise typer.Exit(INCOMPLETE)


def public_key(
    session: Session,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the JWKS to this file.")] = None,
) -> None:
    """Print the public key that credentials are sealed to, for operators' machines.

    Example: `tenantry vault public-key --out vault-public.jwks`
    """
    state = opened(session)
    jwks = state.keyholder.public_keys()
    state.publish(jwks)
    if out:
        write_atomically(out, jwks.encode(), 0o644)
        key = parse_public(jwks)
        if session.json:
            session.print_json({"file": str(out), "vault_key": key.thumbprint, "fingerprint": fingerprint(key)})
        session.say(f"Wrote {out}. Fingerprint to compare: {fingerprint(key)}")
    else:
        typer.echo(jwks)


def rotate(
    session: Session,
    resume: Annotated[bool, flag("--resume", help="Make no new key: reseal what was left.")] = False,
) -> None:
    """Make a new vault key, publish it, and reseal everything that is stored to it, while collections go on.

    May be stopped at any time and gone on with by --resume. The former key still opens what is sealed to it, until it
    is retired and destroyed. Exit code 3 when something could not be resealed: it says what and why.

    Example: `tenantry vault rotate`
    """
    state = opened(session)
    former = state.keyholder.health().active
    key = former if resume else state.keyholder.rotate_vault_key(operator(), "vault rotate", former)
    jwks = state.keyholder.public_keys()
    state.publish(jwks)
    done = resealing(session, state)
    if session.json:
        session.print_json({"key": key, "former": former, **done._asdict()})
    session.say(f"{'Active is' if resume else 'New vault key'} {key}: {done.resealed} resealed.")
    session.say(f"Fingerprint to pin: {fingerprint(parse_public(jwks))}")
    for one in done.left[:MOST_TOLD]:
        session.say(f"Left as it is: {one.name}: {WHY.get(one.why, one.why)}", "yellow")
    if done.left_count > MOST_TOLD:
        session.say(f"... and {done.left_count - MOST_TOLD} more.", "yellow")
    if done.left_count:
        raise typer.Exit(INCOMPLETE)
    if not resume:
        session.say(f"Next, when operators have the new public key: `tenantry vault retire {former}`.")


def resealing(session: Session, state: State) -> Outcome:
    """Reseals with progress: pass after pass over the store, the last of which tells what is left."""
    resealed, count = 0, 0
    left: list[Left] = []
    begins = True
    shown = not session.json and session.console.is_terminal
    with session.console.status("Resealing ...") if shown else nullcontext() as status:
        for step in state.keyholder.reseal(operator(), "vault rotate"):
            if begins:
                left, count = [], 0
            begins = not step.after
            resealed += step.resealed
            left += step.left
            count += step.left_count
            if status:
                status.update(f"Resealing: {resealed:,} done, {step.remaining:,} to look at")
    return Outcome(resealed, left, count)


def retire(session: Session, key: KeyArgument) -> None:
    """Record that nothing is sealed to a former key any more; refused while anything is. It still opens backups.

    Example: `tenantry vault retire KEY`
    """
    state = opened(session)
    state.keyholder.retire_vault_key(checked_thumbprint(key), operator(), "vault retire")
    if session.json:
        session.print_json({"key": key, "state": "retired"})
    session.say(f"Vault key {key} is retired.")
    session.say(f"When no backup needs it any more: `tenantry vault destroy {key}`.")


def destroy(
    session: Session,
    key: KeyArgument,
    yes: Annotated[bool, flag("--yes", help="Do not ask.")] = False,
) -> None:
    """Destroy a retired key: what is still sealed to it, in a backup perhaps, never opens again. Not undoable.

    Exit code 3 when a Key Vault keeps the key that it was told to delete: it says until when, and so does the record.
    Done again, it purges what may be purged by then.

    Example: `tenantry vault destroy KEY`
    """
    state = opened(session)
    checked_thumbprint(key)
    if not yes and not typer.confirm(f"Destroy vault key {key} for ever?", default=False):
        raise NotAllowed("destroy the vault key", "it was not confirmed", "Answer y, or give --yes.")
    kept = state.keyholder.destroy_vault_key(key, operator(), "vault destroy")
    if session.json:
        session.print_json({"key": key, "state": "destroyed", "retained": kept})
    session.say(f"Vault key {key} is {'deleted' if kept else 'destroyed'}.")
    if kept:
        session.say(told(kept), "yellow")
        raise typer.Exit(INCOMPLETE)
