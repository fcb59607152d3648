"""Importing any module of ours, in a fresh interpreter: no socket, file, thread or process, and no variable is read.

What a library does to itself while it is imported is the library's (urllib3 binds a socket to see whether there is
IPv6), so the audit looks at whose code runs; but nobody connects, opens a database or forks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [path.parent.name for path in sorted(ROOT.glob("*/__init__.py"))]
MODULES = {
    package: [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name not in ("__main__.py", "__init__.py")
    ]
    for package in PACKAGES
}

AUDIT = """
import importlib, json, os, sys, threading

root, modules = sys.argv[1], json.loads(sys.argv[2])
places = tuple({root + module.partition(".")[0] for module in modules})
done, looking = [], False
WATCHED = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.putenv", "os.unsetenv", "os.mkdir",
           "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate", "shutil.",
           "tempfile.", "sqlite3.connect", "_thread.start_new_thread", "urllib.Request", "ctypes.dlopen")

def ours():
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(places):
            return f"{frame.f_code.co_filename.removeprefix(root)}:{frame.f_lineno}"
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return None
        frame = frame.f_back
    return None

def audit(event, arguments):
    if not looking:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if not writes and not event.startswith(WATCHED):
        return
    anywhere = event in ("socket.connect", "sqlite3.connect", "os.fork")
    if place := ours():
        done.append(f"{event} at {place}")
    elif anywhere:
        done.append(event)

class Watched(dict):
    def look(self, key):
        name = key.decode() if isinstance(key, bytes) else str(key)
        place = ours()
        if looking and (name.startswith("TENANTRY_") or place):
            done.append(f"variable {name} at {place}")
    def __getitem__(self, key):
        self.look(key)
        return super().__getitem__(key)
    def __contains__(self, key):
        self.look(key)
        return super().__contains__(key)

sys.dont_write_bytecode = True
os.environ._data = Watched(os.environ._data)
sys.addaudithook(audit)
before, looking = set(threading.enumerate()), True
for module in modules:
    importlib.import_module(module)
looking = False
started = [thread.name for thread in set(threading.enumerate()) - before]
print(json.dumps({"done": done, "threads": started, "imported": [name for name in modules if name in sys.modules]}))
"""


def audited(modules: list[str], root: Path, directory: Path) -> dict[str, list[str]]:
    variables = {**os.environ, "TENANTRY_STATE": str(directory / "state"), "HOME": str(directory)}
    found = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", AUDIT, f"{root}/", json.dumps(modules)],
        cwd=directory,
        env={**variables, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    result: dict[str, list[str]] = json.loads(found.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_does_nothing(package: str, tmp_path: Path) -> None:
    found = audited(MODULES[package], ROOT, tmp_path)
    assert found["imported"] == MODULES[package]
    assert found["done"] == []
    assert found["threads"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "socket.socket()",
        "open('made', 'w')",
        "pathlib.Path('made').mkdir()",
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "subprocess.run(['true'])",
        "os.environ.get('TENANTRY_STATE')",
        "os.getenv('HOME')",
        "'TENANTRY_STATE' in os.environ",
        "os.environ.setdefault('OMP_NUM_THREADS', '1')",
        "sqlite3.connect(':memory:')",
    ],
)
def test_a_module_that_does_something_is_found(line: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    imports = "import os, pathlib, socket, sqlite3, subprocess, threading\n"
    (root / "busy_module.py").write_text(imports + line + "\n")
    found = audited(["busy_module"], root, tmp_path)
    assert found["done"] or found["threads"]
