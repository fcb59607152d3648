"""A disk so small that it is full at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[Path]:
    """Mounted at `place`, which is made, until the end of the block. Skips the test where mounting is not allowed."""
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place.mkdir(parents=True)
    mount = ["/usr/bin/env", "mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:  # noqa: S603 - our own directory
        pytest.skip("this machine does not let us mount")
    try:
        yield place
    finally:
        subprocess.run(["/usr/bin/env", "umount", place], check=True)  # noqa: S603


def enlarge(place: Path, size: str) -> None:
    subprocess.run(["/usr/bin/env", "mount", "-o", f"remount,size={size}", place], check=True)  # noqa: S603
