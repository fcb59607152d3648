"""What a process that holds keys asks of the kernel: no core dumps, no debugger of the same user, no swapping.

It narrows who can look; root still can. Sources: prctl(2), mlockall(2), capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14


def refuse_dumps() -> None:
    """No core file, `/proc/PID/mem` and ptrace only for root, and no program started from here gains rights. Survives
    fork. Raises `OSError`."""
    refuse_core_files()
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def refuse_core_files() -> None:
    """A process that is killed by a fault leaves no memory on the disk. Survives fork."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def die_with_parent() -> None:
    """This process is killed when the one that started it ends. Raises `OSError`."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def lock_memory() -> bool:
    """Keeps memory out of swap, where that is allowed without a limit; with one, later allocations would fail."""
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not unlimited and not _may_lock():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def _may_lock() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)


def detach() -> bool:
    """Goes on as a process of its own, in a session of its own and without the starter's files. True in that process,
    False in the one that was started, which should end. Only before the first thread."""
    if os.fork():
        return False
    os.setsid()
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silent, descriptor)
    os.close(silent)
    return True
