"""What `tenantry collect` shows while it works: fed with events, at times that the test says."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from stage import CONTOSO, FABRIKAM, Clock, Stage

from cli.command import Session
from cli.config import built_in
from cli.progress import LEGEND, Progress
from domain.events import (
    AnyEvent,
    BatchRecorded,
    CollectionCompleted,
    CollectionNotPossible,
    CollectionRestarted,
    CollectionStarted,
    CollectionTruncated,
    DatasetOutcome,
    Mode,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
)
from domain.ids import Dataset, RunId, TenantId, collection_stream, run_stream

ORGANIZATION, USERS, GROUPS = "entra.organization", "entra.users", "entra.groups"
MAILBOXES, SIGN_INS = "exchange.mailboxes", "audit.sign-ins"
NOTHING = {"rows/s": "", "datasets": "", "now": "", "left": ""}
NAMES = {CONTOSO: "Contoso", FABRIKAM: "Fabrikam"}
STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Night:
    """A console, and runs whose events come as the test says."""

    def __init__(self, *, terminal: bool = True, json: bool = False, height: int = 24) -> None:
        self.stage = Stage()
        self.clock = Clock()
        self.file = io.StringIO()
        console = Console(
            file=self.file,
            force_terminal=terminal,
            width=120,
            height=height,
            color_system=None,
            _environ={"TERM": "xterm"},
        )
        self.session = Session(built_in(Path("/")), json, console)

    def progress(self, *runs: RunId) -> Progress:
        return Progress(self.session, self.stage.store, runs, NAMES, self.clock.steady)

    def started(self, *names: str, tenant: TenantId = CONTOSO) -> RunId:
        run = self.stage.request(*names, tenant=tenant)
        self.stage.append(run_stream(run), RunStarted(activation="a", epoch=1))
        return run

    def say(self, name: str, *events: AnyEvent, tenant: TenantId = CONTOSO) -> None:
        self.stage.append(collection_stream(tenant, Dataset(name)), *events)

    def read(self, run: RunId, name: str, rows: int, *, mode: Mode = "full", tenant: TenantId = CONTOSO) -> None:
        """Begun, and so many rows on record."""
        self.say(name, CollectionStarted(run=run, mode=mode), batch(run, rows), tenant=tenant)

    def completed(self, run: RunId, name: str, rows: int, *, mode: Mode = "full") -> None:
        self.read(run, name, rows, mode=mode)
        self.say(name, complete(run, rows))

    def finished(self, run: RunId, **rows: int) -> None:
        outcomes = tuple(
            DatasetOutcome(dataset=Dataset(name), outcome="complete", rows=of) for name, of in rows.items()
        )
        self.stage.append(run_stream(run), RunFinished(outcomes=outcomes))

    def yesterday(self, mode: Mode = "full", **rows: int) -> None:
        """A run of Contoso that is over."""
        run = self.started(*rows)
        for name, of in rows.items():
            self.completed(run, name, of, mode=mode)
        self.finished(run, **rows)


def batch(run: RunId, rows: int) -> BatchRecorded:
    return BatchRecorded(
        run=run,
        key="key",
        data_key="data-key",
        rows=rows,
        row_bytes=rows,
        stored_bytes=rows,
        digest="00",
        requests=1,
        after=None,
        cursor="next",
    )


def complete(run: RunId, rows: int) -> CollectionCompleted:
    return CollectionCompleted(run=run, rows=rows, requests=1, restarts=0, seconds=1.0)


def shown(progress: Progress) -> list[dict[str, str]]:
    """The lines of the table, their cells by heading. The last one is the total."""
    columns = progress.table().columns
    cells = zip(*([str(cell) for cell in column.cells] for column in columns), strict=True)
    return [dict(zip((str(column.header) for column in columns), line, strict=True)) for line in cells]


@pytest.fixture
def night() -> Night:
    return Night()


def test_each_tenant_has_a_line_with_its_rows_and_its_rate(night: Night) -> None:
    run = night.started(USERS, GROUPS)
    other = night.stage.request(USERS, tenant=FABRIKAM)
    progress = night.progress(run, other)
    progress.update()
    night.read(run, USERS, 1200)
    night.clock.seconds = 10.0
    night.read(run, GROUPS, 34)

    progress.update()

    assert shown(progress) == [
        {
            "tenant": "Contoso",
            "state": "started",
            "rows": "1,234",
            "rows/s": "123",
            "datasets": "▸▸",
            "now": "entra.users +1",
            "left": "",
        },
        {"tenant": "Fabrikam", "state": "requested", "rows": "0", **NOTHING, "datasets": "·"},
        {"tenant": "0 of 2", "state": "ended", "rows": "1,234", **NOTHING},
    ]


def test_each_dataset_has_a_mark_for_how_it_stands(night: Night) -> None:
    run = night.started(ORGANIZATION, USERS, GROUPS, MAILBOXES, SIGN_INS)
    progress = night.progress(run)
    night.completed(run, ORGANIZATION, 1)
    night.read(run, USERS, 5)
    night.read(run, GROUPS, 2)
    truncated = CollectionTruncated(
        run=run, reason="throttled", detail="", cursor=None, rows=2, requests=1, seconds=1.0
    )
    night.say(GROUPS, truncated)
    night.say(MAILBOXES, CollectionStarted(run=run, mode="full"))
    night.say(MAILBOXES, CollectionNotPossible(run=run, reason="unlicensed", detail="Add it.", requests=1, seconds=1.0))

    progress.update()

    marks = dict(zip((ORGANIZATION, USERS, GROUPS, MAILBOXES, SIGN_INS), shown(progress)[0]["datasets"], strict=True))
    assert marks == {ORGANIZATION: "✓", USERS: "▸", GROUPS: "!", MAILBOXES: "✗", SIGN_INS: "·"}
    assert all(mark in LEGEND for mark in marks.values())
    assert shown(progress)[0]["now"] == USERS


def test_the_time_left_is_what_the_rows_of_the_last_run_take_at_this_rate(night: Night) -> None:
    night.yesterday(**{USERS: 1000, GROUPS: 100, MAILBOXES: 50})
    run = night.started(USERS, GROUPS)
    progress = night.progress(run)
    progress.update()
    night.completed(run, GROUPS, 60)
    night.read(run, USERS, 140)
    night.clock.seconds = 10.0

    progress.update()

    assert shown(progress)[0]["rows/s"] == "20"
    assert shown(progress)[0]["left"] == "43 s", "(1000 - 140) / 20: groups are at their end, mailboxes not asked for"


@pytest.mark.parametrize(
    ("mode", "before"),
    [("full", {}), ("full", {USERS: 1000}), ("full", {USERS: 1000, GROUPS: 3}), ("delta", {USERS: 1000, GROUPS: 100})],
    ids=["nothing", "one dataset", "fewer rows than there are", "another mode"],
)
def test_no_time_left_is_told_where_the_last_run_does_not_tell_it(
    night: Night, mode: Mode, before: dict[str, int]
) -> None:
    night.yesterday(**before)
    run = night.started(USERS, GROUPS)
    progress = night.progress(run)
    progress.update()
    night.read(run, USERS, 140, mode=mode)
    night.read(run, GROUPS, 4, mode=mode)
    night.clock.seconds = 10.0

    progress.update()

    assert (shown(progress)[0]["rows"], shown(progress)[0]["left"]) == ("144", "")


def test_a_run_that_goes_on_has_the_rate_of_what_it_reads_now(night: Night) -> None:
    night.yesterday(**{USERS: 6000})
    run = night.started(USERS)
    night.read(run, USERS, 5000)
    night.stage.append(run_stream(run), RunResumed(activation="b", epoch=2))
    progress = night.progress(run)
    progress.update()
    assert (shown(progress)[0]["rows/s"], shown(progress)[0]["left"]) == ("", "")
    night.say(USERS, batch(run, 100))
    night.clock.seconds = 10.0

    progress.update()

    assert [shown(progress)[0][of] for of in ("rows", "rows/s", "left")] == ["5,100", "10", "90 s"]


def test_rows_that_are_read_again_count_once(night: Night) -> None:
    run = night.started(USERS)
    progress = night.progress(run)
    progress.update()
    night.read(run, USERS, 100)
    night.say(USERS, CollectionRestarted(run=run, reason="page-token-expired", mode="full"), batch(run, 30))
    night.clock.seconds = 10.0

    progress.update()

    assert [shown(progress)[0][of] for of in ("rows", "rows/s")] == ["30", "3"]


def test_what_has_ended_stands_below_with_why_and_is_counted(night: Night) -> None:
    failed, done = night.started(USERS), night.started(USERS, tenant=FABRIKAM)
    begun = night.started(GROUPS)
    never = DatasetOutcome(dataset=Dataset(USERS), outcome="not-started")
    night.stage.append(run_stream(failed), RunFailed(reason="AADSTS50076", detail="MFA.", outcomes=(never,)))
    night.finished(done, **{USERS: 7})
    progress = night.progress(failed, done, begun)

    progress.update()

    assert [(line["state"], line["datasets"], line["now"]) for line in shown(progress)] == [
        ("started", "·", ""),
        ("failed", "✗", "AADSTS50076"),
        ("finished", "✓", ""),
        ("ended", "", ""),
    ]
    assert (shown(progress)[-1]["tenant"], shown(progress)[-1]["rows"]) == ("2 of 3", "7")


def test_a_low_terminal_shows_those_that_are_at_work() -> None:
    night = Night(height=7)
    runs = [night.stage.request(USERS) for _ in range(3)]
    begun = night.started(GROUPS, tenant=FABRIKAM)
    progress = night.progress(*runs, begun)

    progress.update()

    assert [line["tenant"] for line in shown(progress)] == ["Fabrikam", "Contoso", "0 of 4"]


def test_runs_of_others_are_not_shown(night: Night) -> None:
    night.read(night.started(USERS), USERS, 10)
    run = night.started(GROUPS, tenant=FABRIKAM)
    progress = night.progress(run)

    progress.update()

    assert [line["tenant"] for line in shown(progress)] == ["Fabrikam", "0 of 1"]


def test_a_terminal_gets_the_table_and_is_left_without_it(night: Night) -> None:
    run = night.started(USERS)
    with night.progress(run) as progress:
        night.read(run, USERS, 12345)
        progress.update()

    said = STEERING.sub("", night.file.getvalue())
    assert re.search(r"Contoso +started +12,345 +▸ +entra.users", said)
    assert LEGEND in said
    assert night.file.getvalue().endswith("\x1b[1A\x1b[2K"), "its last line is taken away"


def test_without_a_terminal_each_run_is_told_once_when_it_has_ended() -> None:
    night = Night(terminal=False)
    done, failed = night.started(USERS, GROUPS), night.started(USERS, tenant=FABRIKAM)
    with night.progress(done, failed) as progress:
        night.read(done, USERS, 12345)
        progress.update()
        assert night.file.getvalue() == ""
        night.finished(done, **{USERS: 12345, GROUPS: 10})
        for _ in range(2):
            progress.update()
        never = DatasetOutcome(dataset=Dataset(USERS), outcome="not-started")
        night.stage.append(run_stream(failed), RunFailed(reason="AADSTS50076", detail="MFA.", outcomes=(never,)))
        progress.update()

    assert night.file.getvalue().splitlines() == [
        f"Contoso ({CONTOSO})  finished     12,355 rows  2/2 datasets complete",
        f"Fabrikam ({FABRIKAM})  failed            0 rows  0/1 datasets complete",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_programs_are_told_nothing_meanwhile(terminal: bool) -> None:
    night = Night(terminal=terminal, json=True)
    run = night.started(USERS)
    night.finished(run, **{USERS: 10})

    with night.progress(run) as progress:
        progress.update()

    assert night.file.getvalue() == ""
