"""What is shipped: one wheel, the same wherever it is built, and a lock that says what it runs with."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from unit import arguments

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
REQUIREMENT = re.compile(r"(?P<name>[a-z0-9][a-z0-9.-]*)(\[[a-z,]+\])?==(?P<version>[0-9][^ ;]*)( ; [^\\]+)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def build(directory: Path) -> Path:
    """Without isolation, so without a network."""
    subprocess.run(  # noqa: S603 - our own build
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = directory.iterdir()
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, list[str]]:
    """Each requirement of the lock with its hashes."""
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    entries = [line.split(" --hash", 1) for line in text.splitlines() if line.strip()]
    return {entry[0].strip(): HASH.findall("--hash" + entry[1]) if entry[1:] else [] for entry in entries}


def named_in(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=;@ ]", line, maxsplit=1)[0]) for line in requirements}


def test_the_wheel_is_named_tenantry_and_runs_on_any_platform(wheel: Path) -> None:
    assert wheel.name == f"tenantry-{PROJECT['project']['version']}-py3-none-any.whl"


def test_the_wheel_holds_every_package_and_nothing_else(names: list[str]) -> None:
    assert set(PACKAGES) == {path.parent.name for path in ROOT.glob("*/__init__.py")}
    tops = {name.split("/", 1)[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_holds_every_module_the_catalog_and_the_markers_of_typed_packages(names: list[str]) -> None:
    sources = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sources <= set(names)
    assert "collectors/catalog.toml" in names
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_the_wheel_holds_no_test_and_nothing_that_a_run_leaves_behind(names: list[str]) -> None:
    assert not [
        name for name in names if re.search(r"(^|/)(tests?|bench|__pycache__|\.tenantry[^/]*)/|\.pyc$|\.db", name)
    ]


def test_the_wheel_brings_the_command_tenantry(wheel: Path, names: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entry_points = archive.read(next(name for name in names if name.endswith("/entry_points.txt"))).decode()
        metadata = email.message_from_bytes(archive.read(next(name for name in names if name.endswith("/METADATA"))))
    assert "tenantry = cli.main:run_command" in entry_points
    assert (metadata["Name"], metadata["Requires-Python"]) == ("tenantry", ">=3.11")
    assert named_in(metadata.get_all("Requires-Dist", [])) == named_in(PROJECT["project"]["dependencies"])


def test_the_wheel_works_without_its_source(wheel: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import cli.main, collectors.catalog\n"
        "assert collectors.catalog.__file__.startswith(sys.path[0])\n"
        "assert 'entra.users' in collectors.catalog.load_catalog('')\n"
        "cli.main.run_command()\n"
    )
    shown = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, str(wheel), "--help"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert "tenantry" in shown


def test_the_keyholder_that_the_service_starts_is_in_the_wheel(wheel: Path, tmp_path: Path) -> None:
    program = (
        "import runpy, sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import vault; assert vault.__file__.startswith(sys.path[0])\n"
        "runpy.run_module('vault.keyholder', run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-I", "-c", program, str(wheel), *arguments(tmp_path / "socket", 1)]
    ended = subprocess.run(command, input=b"{}", capture_output=True, check=False)  # noqa: S603 - our own program
    assert ended.stderr.startswith(b"The keyholder cannot start: Cannot read the settings")
    assert ended.returncode == 1


def test_two_builds_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


def test_the_lock_pins_everything_with_its_hashes() -> None:
    lock = locked()
    assert all(REQUIREMENT.fullmatch(requirement) for requirement in lock)
    assert all(hashes for hashes in lock.values())


def test_the_lock_names_no_place_to_install_from() -> None:
    text = (ROOT / "requirements.txt").read_text()
    assert "://" not in text
    assert " @ " not in text
    assert not [line for line in text.splitlines() if line.startswith("-")]


def test_every_dependency_has_its_reason_on_record() -> None:
    asked = [line for line in (ROOT / "requirements.in").read_text().splitlines() if line and not line.startswith("#")]
    reasons = (ROOT / "docs" / "dependencies.md").read_text().splitlines()
    given = {normal(name) for line in reasons if line.startswith("| `") for name in re.findall(r"`([^`]+)`", line[:60])}
    assert named_in(asked) <= given


def test_the_lock_holds_every_dependency() -> None:
    pinned = named_in(list(locked()))
    asked = [line for line in (ROOT / "requirements.in").read_text().splitlines() if line and not line.startswith("#")]
    assert named_in(PROJECT["project"]["dependencies"]) <= named_in(asked) <= pinned
