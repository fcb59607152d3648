"""An error that nobody foresaw: where it happened goes to a log, what it is into one line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cli.refusals import Refusal

LOG = Path("logs") / "cli.log"
MOST_LOG_BYTES = 1 << 20
DEBUG = "TENANTRY_DEBUG"


def recorded(error: Exception, state: Path | None, environment: Mapping[str, str]) -> Refusal:
    """What to tell. The traceback is appended to the log of the state directory, and printed when `TENANTRY_DEBUG` is
    set: it shows code and the error's own text, and no variable."""
    trace = "".join(traceback.format_exception(error))
    if environment.get(DEBUG):
        sys.stderr.write(trace)
    what = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename or 'the system'}: {error.strerror}"
    place = _appended(trace, state)
    where = f"The log is {place}" if place else f"{DEBUG}=1 shows where"
    return Refusal("Unexpected", what, f"{where}; please report it.")


def _appended(trace: str, state: Path | None) -> Path | None:
    """The log, or None where none can be written: then nothing is made in a directory that is not ours."""
    if state is None or not (state / "version").exists():
        return None
    path = state / LOG
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.exists() and path.stat().st_size > MOST_LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {trace}\n")
    except OSError:
        return None
    return path
