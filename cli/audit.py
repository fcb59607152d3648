"""`tenantry audit ...`: the event log as it is stored, as it was, and whether it is still what was written."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cli.command import FAILED, Session, flag, tell_cut
from cli.files import read_text, write_atomically
from cli.ledger import REMAKE, ledger_key, ledger_path, opened_ledger, origin, sign_checkpoint, verified
from cli.output import cell
from cli.state import opened
from cli.trail import entries, followed, replayed, show_entries
from crypto.checkpoint import LedgerKey, named_origin, verifier_key, verify_checkpoint
from domain.errors import Malformed, Unreadable
from domain.ids import SLOTS, credential_stream, run_id, slot, tenant_id
from eventstore.disk import destination


def log(
    session: Session,
    tenant: Annotated[str | None, typer.Option(metavar="GUID", help="Only events of this tenant.")] = None,
    credential: Annotated[
        str | None, typer.Option(metavar="TENANT[/SLOT]", help="Only the events of this credential.")
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only what this run caused.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="N", help="At most so many, the newest.")
    ] = 10_000,
) -> None:
    """Print the event log: who did what, when, because of what. Says so on standard error when there is more than
    --limit.

    Example: `tenantry audit log --credential TENANT --json`
    """
    state = opened(session)
    wanted = streams_of_credential(credential) if credential else None
    only_tenant = tenant_id(tenant) if tenant else None
    only_run = run_id(run) if run else None
    found: deque[dict[str, Any]] = deque(maxlen=limit + 1)
    for one in entries(followed(state)):
        if wanted is not None and one["stream"] not in wanted:
            continue
        if only_tenant and one["tenant"] != only_tenant:
            continue
        if only_run and only_run not in (one["run"], one["cause"]):
            continue
        found.append(one)
    show_entries(session, list(found)[-limit:])
    if len(found) > limit:
        tell_cut(limit)


def replay(
    session: Session,
    as_of: Annotated[str, typer.Option("--as-of", metavar="TIME|POSITION", help="ISO 8601 time, or a position.")],
    tenant: Annotated[str | None, typer.Option(metavar="GUID", help="Only this tenant.")] = None,
) -> None:
    """Show the fleet and its runs as they were at a time or position, folded from the events.

    Example: `tenantry audit replay --as-of 2026-03-01T00:00:00Z --tenant TENANT`
    """
    state = opened(session)
    only = tenant_id(tenant) if tenant else None
    facts = replayed(state, as_of, only)
    if session.json:
        session.print_json(facts)
        return
    session.say(f"As of {cell(facts['at'])} (position {facts['position']}):")
    session.show(
        facts["fleet"],
        ("tenant", "name", "state", "credential", "last_run", "last_complete", "rows", "why"),
        "No tenant was registered then.",
    )
    if only:
        for one in facts["fleet"]:
            session.show(one["datasets"], ("dataset", "state", "rows", "last_complete", "reason"), "Nothing collected.")


def verify(
    session: Session,
    witness: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A checkpoint that was exported and kept elsewhere.")
    ] = None,
) -> None:
    """Recompute the ledger from the stored bytes. Exit code 1, naming the event, when anything was changed.

    Without a witness nobody can see that the end was cut off with its checkpoints: keep one elsewhere, by `tenantry
    audit checkpoint --out`.

    Example: `tenantry audit verify --witness /mnt/elsewhere/checkpoint.txt`
    """
    state = opened(session)
    key = ledger_key(state)
    witnesses = {path: witness_of(path, key) for path in witness or []}
    result = verified(state, list(witnesses.values()))
    if session.json:
        session.print_json(result)
    elif result.ok:
        session.say(f"Verified: {result.events} events, {result.checkpoints} checkpoints hold.", "green")
        for path, note in witnesses.items():
            size = verify_checkpoint(note, key.public).size
            session.say(f"Compared with the witness {path}: the events up to position {size} are those it was made of.")
        if result.uncovered:
            session.say(f"Under no checkpoint yet: the last {result.uncovered}.")
    else:
        session.say(f"Not what was written: {len(result.problems)} problems in {result.events} events.", "red")
        session.show(
            [msgspec.to_builtins(problem) for problem in result.problems],
            ("kind", "position", "stream", "version"),
            "",
        )
        if any(problem.kind == "missing" for problem in result.problems):
            session.say(f"The ledger's record {ledger_path(state)} is missing, or was emptied. {REMAKE}", "yellow")
    if not result.ok:
        raise typer.Exit(FAILED)


def witness_of(path: Path, key: LedgerKey) -> str:
    """The checkpoint in a file. Raises `Unreadable` unless it says that it is of the ledger with this key: one that
    says so and is not signed by it is an alarm, anything else a file that was mistaken for another."""
    note = read_text(path, "checkpoint")
    named, own = named_origin(note), origin(key)
    if named is None:
        raise Unreadable("witness", str(path), "that is no checkpoint", "Give a file of `audit checkpoint --out`.")
    if named != own:
        why = f"it is of another ledger ({named}), this one is {own}"
        raise Unreadable("witness", str(path), why, "Give one of this ledger; if it is, the ledger key was exchanged.")
    return note


def checkpoint(
    session: Session,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the checkpoint to this file, to keep elsewhere.")
    ] = None,
    overwrite: Annotated[bool, flag("--overwrite", help="Replace the file when it is there already.")] = False,
) -> None:
    """Sign a checkpoint over everything recorded so far; kept elsewhere, it witnesses against cutting off the end.

    Makes the ledger's record again from the events where it is missing.

    Example: `tenantry audit checkpoint --out /mnt/elsewhere/checkpoint.txt`
    """
    state = opened(session)
    place = destination(out, overwrite=overwrite) if out else None
    sign_checkpoint(state, "audit checkpoint")
    with opened_ledger(state) as (ledger, key):
        notes = ledger.notes()
        origin_key = verifier_key(origin(key), key.public)
    if not notes:
        raise Malformed("ledger", "nothing", "at least one event")
    if place:
        write_atomically(place, notes[-1].encode(), 0o644)
        session.say(f"Wrote {out}. Public key of the ledger: {origin_key}")
    if session.json:
        session.print_json({"note": notes[-1], "key": origin_key})
    elif not out:
        typer.echo(notes[-1])


def streams_of_credential(text: str) -> frozenset[str]:
    """`TENANT` or `TENANT/SLOT`; raises `Malformed`."""
    tenant, _, which = text.partition("/")
    slots = (slot(which),) if which else SLOTS
    return frozenset(credential_stream(tenant_id(tenant), one) for one in slots)
