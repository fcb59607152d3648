"""A program of ours as another user, started by root: `python -I other_user.py USER GROUP PROGRAM ARGUMENT...`.

Everything is imported first: the interpreter may lie where only root gets to. `GROUP` is one that users share.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime

import msgspec

from crypto.opening import open_secret_store
from crypto.stores import EVENT_KEY
from domain.events import RunRequested, RunStarted
from domain.ids import Dataset, RunId, TenantId, run_stream
from domain.settings import Settings
from eventstore.store import open_event_store
from vault import keyholder
from vault.client import connect
from vault.messages import Release


class Asked(msgspec.Struct, frozen=True):
    """For `ask`, as JSON on standard input."""

    settings: Settings
    request: Release


def command(user: int, group: int, *words: str) -> list[str]:
    return [sys.executable, "-I", __file__, str(user), str(group), *words]


def become(user: int, group: int) -> None:
    argparse.ArgumentParser().format_help()  # imports what it needs when it is used
    os.setgroups([group])
    os.setgid(user)
    os.setuid(user)
    os.umask(0o007)


def serve() -> int:
    """The keyholder, with the arguments that are left."""
    return keyholder.main()


def ask() -> int:
    """Starts the run of the request, as a tenant actor does, and prints what is released to it."""
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    settings, request = asked.settings, asked.request
    run = RunId(request.run)
    requested = RunRequested(run=run, tenant=TenantId(request.tenant), datasets=(Dataset("entra.users"),))
    started = RunStarted(activation=request.activation, epoch=request.epoch)
    with connect(settings) as line:
        with open_event_store(settings.eventstore, open_secret_store(settings).get(EVENT_KEY)) as events:
            events.append(run_stream(run), 0, [requested, started], at=datetime.now(UTC), actor="ray", cause="test")
        print(line.release(request).hex())  # noqa: T201 - its answer
    return 0


if __name__ == "__main__":
    become(int(sys.argv[1]), int(sys.argv[2]))
    program = {"serve": serve, "ask": ask}[sys.argv[3]]
    del sys.argv[1:4]
    sys.exit(program())
