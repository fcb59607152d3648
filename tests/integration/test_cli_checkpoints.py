"""A command that appended anything ends with a checkpoint over it; others sign nothing."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest
from desk import CONTOSO, SUSPENDED, Desk, as_its_owner, one_line, run

from crypto.checkpoint import LedgerKey, sign_checkpoint
from crypto.stores import LEDGER_KEY
from domain.events import CheckpointSigned
from domain.ids import LEDGER


def verification(desk: Desk, *words: str) -> dict[str, Any]:
    return dict(json.loads(desk.type("audit", "verify", "--json", *words).out))


def causes(desk: Desk) -> list[str]:
    """What each checkpoint was signed for."""
    signed = [one for one in desk.opened().store.read(LEDGER) if isinstance(one.event, CheckpointSigned)]
    return [one.cause for one in signed]


APPENDING = {
    "tenant plan": ["tenant", "plan", CONTOSO, "--every", "6"],
    "tenant suspend": ["tenant", "suspend", CONTOSO, "--reason", "pause"],
    "credential put": ["credential", "put", "sealed.json"],
    "collect": ["collect", CONTOSO, "--detach"],
    "vault rotate": ["vault", "rotate"],
}


@pytest.mark.parametrize("command", APPENDING)
def test_what_a_command_appended_is_under_a_checkpoint_when_it_has_ended(command: str, desk: Desk) -> None:
    desk.seal("sealed.json")
    before = causes(desk)
    assert desk.type(*APPENDING[command]).code == 0
    assert causes(desk) == [*before, command]
    assert verification(desk)["uncovered"] == 0


def test_init_signs_the_first_checkpoint(desk: Desk) -> None:
    assert causes(desk)[0] == "init"


def test_a_witness_says_how_far_it_proves_and_one_of_another_ledger_is_no_alarm(desk: Desk) -> None:
    assert desk.type("audit", "checkpoint", "--out", "witness.txt").code == 0
    size = (desk.directory / "witness.txt").read_text().splitlines()[1]
    said = desk.type("audit", "verify", "--witness", "witness.txt")
    assert said.code == 0
    assert f"Compared with the witness witness.txt: the events up to position {size} are those" in said.out
    other = sign_checkpoint("tenantry/another", 1, bytes(32), LedgerKey.generate())
    (desk.directory / "other.txt").write_text(other)
    assert "of another ledger (tenantry/another)" in desk.refused(2, "audit", "verify", "--witness", "other.txt")
    forged = other.replace("tenantry/another", (desk.directory / "witness.txt").read_text().splitlines()[0])
    (desk.directory / "forged.txt").write_text(forged)
    assert desk.type("audit", "verify", "--witness", "forged.txt").code == 1


@pytest.mark.parametrize(
    "words",
    [["tenant", "list"], ["vault", "keys"], ["vault", "public-key"], ["audit", "verify"], ["collect", SUSPENDED]],
    ids=" ".join,
)
def test_a_command_that_appends_nothing_signs_nothing(desk: Desk, words: list[str]) -> None:
    before = desk.opened().store.last_position()
    desk.type(*words)
    assert desk.opened().store.last_position() == before


def test_who_may_not_read_the_ledger_key_leaves_the_checkpoint_to_the_next(desk: Desk) -> None:
    (key,) = (desk.state / "secrets").glob(f"{LEDGER_KEY}.*")
    before = causes(desk)
    key.chmod(0)
    said = run(desk, "tenant", "plan", CONTOSO, "--every", "6", before=as_its_owner)
    assert (said.code, said.err) == (0, "")
    refused = run(desk, "audit", "checkpoint", before=as_its_owner)
    assert (refused.code, LEDGER_KEY in one_line(refused.err)) == (2, True)
    key.chmod(0o600)
    assert causes(desk) == before
    assert verification(desk)["uncovered"] == 1
    assert desk.type("tenant", "plan", CONTOSO, "--every", "12").code == 0
    assert verification(desk)["uncovered"] == 0


def test_a_missing_record_of_the_ledger_is_told_and_made_again_on_request_only(desk: Desk) -> None:
    for file in desk.state.glob("ledger.db*"):
        file.unlink()
    said = desk.type("tenant", "plan", CONTOSO, "--every", "6", "--json")
    assert said.code == 3
    assert json.loads(said.out)["cadence_seconds"] == 6 * 3600
    refusal = json.loads(said.err)
    assert "no checkpoint could be signed" in refusal["error"]
    assert "audit checkpoint" in refusal["do"]
    assert refusal["exit"] == 3
    assert [one["kind"] for one in verification(desk)["problems"]] == ["missing"]
    assert "is missing, or was emptied. Restore it from a backup" in " ".join(desk.type("audit", "verify").out.split())
    assert desk.type("audit", "checkpoint").code == 0
    assert verification(desk)["ok"]


@pytest.mark.parametrize(
    "emptied", [("leaves", "checkpoints", "tracking"), ("leaves", "tracking"), ("checkpoints",)], ids=" and ".join
)
def test_an_emptied_record_of_the_ledger_is_told_and_made_again_on_request_only(
    desk: Desk, emptied: tuple[str, ...]
) -> None:
    with sqlite3.connect(desk.state / "ledger.db") as database:
        for table in emptied:
            database.execute(f"DELETE FROM {table}")  # noqa: S608 - named above
    database.close()
    for hours in ("6", "12"):
        said = desk.type("tenant", "plan", CONTOSO, "--every", hours)
        assert said.code == 3
        assert "no checkpoint could be signed" in said.err
        assert "audit checkpoint" in said.err
    assert [one["kind"] for one in verification(desk)["problems"]] == ["missing"]
    assert desk.type("audit", "checkpoint").code == 0
    assert verification(desk)["ok"]
    assert desk.type("tenant", "plan", CONTOSO, "--every", "24").code == 0


def test_an_event_that_was_changed_before_a_checkpoint_covers_it_is_not_signed_over(desk: Desk) -> None:
    with sqlite3.connect(desk.state / "events.db") as database:
        database.execute(
            "INSERT INTO stored_events SELECT MAX(rowid)+1, 'run:forged', 1, 'run-started/1', x'00' FROM stored_events"
        )
    database.close()
    said = desk.type("tenant", "suspend", CONTOSO, "--reason", "pause")
    assert said.code == 3
    assert "audit verify" in said.err
    problems = verification(desk)["problems"]
    assert [(one["kind"], one["stream"]) for one in problems] == [("inserted", "run:forged")]
