"""How the command starts: lightly, with help everywhere, and with one line for what it does not understand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cli.main import COMMANDS, GROUPS, STATES, main, with_common_options_last

HEAVY = ("ray", "duckdb", "azure", "msal", "httpx", "eventsourcing", "cryptography")
LINES = [(name,) for name in (*COMMANDS, *GROUPS)] + [(name, one) for name in GROUPS for one in GROUPS[name][2]]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(option: str) -> None:
    program = (
        "import sys; from cli.main import main; code = main(sys.argv[1:]); "
        f"loaded = [name for name in {HEAVY} if name in sys.modules]; "
        "sys.exit(f'loaded: {loaded}' if loaded else code)"
    )
    command = [sys.executable, "-c", program, option]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "tenantry" in ended.stdout


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_command_explains_itself(line: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: tenantry {' '.join(line)}" in text
    assert "<bool>" not in text
    if len(line) == 2 or line[0] in COMMANDS:
        assert f"Example: tenantry {' '.join(line)}" in " ".join(text.split())
        default = STATES.get(" ".join(line), ".tenantry")
        assert ("--state" in text) == ("--config" in text) == (default is not None)
        assert default is None or f"[default: {default}]" in " ".join(text.replace("│", " ").split())


MISUNDERSTOOD = {
    "an unknown command": (["nonsense"], "No such command 'nonsense'"),
    "a mistyped command": (["tenent", "list"], "Did you mean 'tenant'?"),
    "an unknown option": (["run", "list", "--wat"], "No such option: --wat"),
    "a missing argument": (["tenant", "add"], "Missing argument 'TENANT'"),
    "a missing option": (["tenant", "add", "x"], "Missing option '--domain'"),
    "a number that is none": (["run", "list", "--limit", "many"], "--limit"),
    "a number out of range": (["demo", "--tenants", "1"], "--tenants"),
}


@pytest.mark.parametrize("case", MISUNDERSTOOD)
def test_wrong_usage_is_one_line_and_code_2(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, named = MISUNDERSTOOD[case]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tenantry: ")
    assert err.count("\n") == 1
    assert named in err
    assert "--help" in err


def test_a_bare_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tenant"]) == 2
    assert "offboard" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("--state s run list --json", "run list --state s --json"),
        ("--state=s --json --config c collect --all", "collect --state=s --json --config c --all"),
        ("run list --state s", "run list --state s"),
        ("--json", "--json"),
        ("--json --help", "--help --json"),
        ("--state", "--state"),
        ("", ""),
    ],
)
def test_what_every_command_takes_may_stand_before_it(typed: str, understood: str) -> None:
    assert with_common_options_last(typed.split()) == understood.split()


def test_a_state_directory_before_a_command_that_has_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--state", "s", "credential", "seal"]) == 2
    assert "No such option: --state" in capsys.readouterr().err
