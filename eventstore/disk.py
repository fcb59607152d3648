"""What is on the disk, and not only on its way there."""

from __future__ import annotations

import os
from pathlib import Path

from domain.errors import NotAllowed


def sync(path: Path) -> None:
    """A file's bytes, or a directory's entries, are on the disk when this returns. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def destination(path: Path, *, overwrite: bool) -> Path:
    """Where a file is to be written that `path` names: what a link points to. Raises `NotAllowed` when something is
    there already, unless it is a regular file and `overwrite`."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise NotAllowed(f"write {path}", "it is a directory", "Name a file.")
    if (path.exists() or os.path.lexists(target)) and not target.is_file():
        raise NotAllowed(f"write {path}", "it is no regular file", "Name a file.")
    if target.exists() and not overwrite:
        raise NotAllowed(f"write {path}", "there is such a file", "Name another, or give --overwrite.")
    return target
