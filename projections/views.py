"""All views, in one file."""

from __future__ import annotations

from pathlib import Path

from eventstore.store import EventStore
from projections.fleet import FLEET, Fleet
from projections.runs import RUNS, Runs
from projections.tables import make_file
from projections.view import View

FILE_SHAPE = 1
"""Raise it whenever the rows or the fold of any view change: the file is then made again."""


class Views:
    """`path`: made when it is missing; several processes may have it open."""

    def __init__(self, path: Path) -> None:
        make_file(path, (*FLEET.statements(), *RUNS.statements()), FILE_SHAPE)
        self.fleet: Fleet = View(path, FLEET)
        self.runs: Runs = View(path, RUNS)

    def catch_up(self, store: EventStore) -> None:
        """Takes in everything that is stored."""
        self.fleet.catch_up(store)
        self.runs.catch_up(store)

    def close(self) -> None:
        self.fleet.close()
        self.runs.close()

    def __enter__(self) -> Views:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
