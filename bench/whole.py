"""One run through the whole system: Ray, the vault, tenant and collector actors, as `tenantry collect` carries it out.

Measured is the collection by its events, from CollectionStarted to CollectionCompleted: behind the sign-in, as in
`core.py`, but with the release of the data key. The peak is that of the Graph collector's process; the CPU time, which
several processes share, is not measured.
"""

from __future__ import annotations

import os
import threading

from rich.console import Console

from bench.measured import PROC, Job, Measured, peak_mib, read_job, report
from cli.collect import carry_out
from cli.command import Session
from cli.config import Effective
from cli.state import State
from domain.events import BatchRecorded, CollectionCompleted, CollectionStarted
from domain.ids import RunId, TenantId, collection_stream, dataset

TITLE = b"ray::GraphCollector"
SAMPLE_SECONDS = 0.1


def whole(job: Job) -> Measured:
    state = State(job.settings)
    session = Session(Effective(job.settings, {}), True, Console(stderr=True))
    over, peaks = threading.Event(), [0.0]
    watching = threading.Thread(target=watch, args=(over, peaks), name="peaks")
    watching.start()
    try:
        carry_out(session, state, [RunId(job.run)])
    finally:
        over.set()
        watching.join()
    found = state.store.read(collection_stream(TenantId(job.tenant), dataset(job.dataset)))
    state.store.close()
    of_run = [
        (one.at, one.event)
        for one in found
        if isinstance(one.event, CollectionStarted | BatchRecorded | CollectionCompleted) and one.event.run == job.run
    ]
    begun = next(at for at, event in of_run if isinstance(event, CollectionStarted))
    ended, completed = next((at, event) for at, event in of_run if isinstance(event, CollectionCompleted))
    batches = [event for _, event in of_run if isinstance(event, BatchRecorded)]
    return Measured(
        rows=sum(batch.rows for batch in batches),
        seconds=(ended - begun).total_seconds(),
        cpu_seconds=0.0,
        requests=completed.requests,
        row_bytes=sum(batch.row_bytes for batch in batches),
        stored_bytes=sum(batch.stored_bytes for batch in batches),
        peak_mib=max(peaks),
    )


def watch(over: threading.Event, peaks: list[float]) -> None:
    """The peak of the Graph collector below this process. It is looked for until it is there: that costs a little."""
    collectors: list[int] = []
    while not over.wait(SAMPLE_SECONDS):
        collectors = collectors or [pid for pid in descendants() if title(pid).startswith(TITLE)]
        peaks[:] = [max([*peaks, *map(peak_mib, collectors)])]


def descendants() -> set[int]:
    """Process ids of this process's children, their children and so on."""
    parents = {int(entry.name): parent(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit()}
    found, more = set[int](), {os.getpid()}
    while more:
        more = {pid for pid, above in parents.items() if above in more} - found
        found |= more
    return found


def parent(pid: int) -> int:
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def title(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    report(whole(read_job()))
