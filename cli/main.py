"""Assembles the `tenantry` command from tables; the module of a command is imported when that command is called."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cli.command import FAILED, STOPPED, UNANSWERED, WRONG_USAGE, add_command, flag
from cli.config import DEFAULT_STATE
from cli.output import in_ascii
from cli.refusals import Refusal, refuse
from cli.unexpected import recorded

HELP = """Collects Microsoft 365 data from every tenant you manage, keeps their credentials sealed, and can prove both.

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 done, but something is missing or needs attention. Errors are one line on
standard error; with --json one object: `{"error": what, "why": ..., "do": ..., "exit": code}`.

`--state DIR`, `--config FILE` and `--json` may stand before the command too.
"""
MARKUP: Any = "markdown"

COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("demo", "demo", "Run the main job against a simulator, and show what is on record."),
    "init": ("basics", "init", "Make a state directory with its vault key, event key and ledger key."),
    "collect": ("collect", "collect", "Collect now, with progress."),
    "doctor": ("doctor", "doctor", "Say which step fails on the way to a tenant's data, and what to do."),
    "simulate": ("simulate", "simulate", "Serve a simulated Microsoft 365 until Ctrl-C."),
}
"""Commands of their own: module, function, one line of help."""

GROUPS: dict[str, tuple[str, str, dict[str, str]]] = {
    "tenant": (
        "tenant",
        "Register and manage tenants.",
        {
            "add": "add",
            "list": "list_",
            "show": "show",
            "change": "change",
            "plan": "plan",
            "suspend": "suspend",
            "resume": "resume",
            "offboard": "offboard",
        },
    ),
    "vault": (
        "vault",
        "The vault's keys.",
        {"keys": "keys", "public-key": "public_key", "rotate": "rotate", "retire": "retire", "destroy": "destroy"},
    ),
    "credential": (
        "credential",
        "Seal, store and follow credentials.",
        {
            "seal": "seal",
            "set": "set_",
            "put": "put",
            "verify": "verify",
            "list": "list_",
            "expiring": "expiring",
            "history": "history",
            "revoke": "revoke",
        },
    ),
    "run": (
        "run",
        "What was collected, when, and what is missing.",
        {"list": "list_", "show": "show", "cancel": "cancel"},
    ),
    "data": (
        "data",
        "Query and export collected rows.",
        {"datasets": "datasets", "sql": "sql", "export": "export"},
    ),
    "audit": (
        "audit",
        "The event log: read it, replay it, verify it.",
        {"log": "log", "replay": "replay", "verify": "verify", "checkpoint": "checkpoint"},
    ),
    "config": ("basics", "Settings and where they come from.", {"show": "config_show"}),
}
"""Module, one line of help, and the function of each command."""

COMMON = {"--state": True, "--config": True, "--json": False}
"""Options of every command, and whether they take a value."""

STATES: dict[str, str | None] = {"demo": ".tenantry-demo", "simulate": None, "credential seal": None}
"""Default state directory of a command where it is another one, or None where it uses none."""


class Command(TyperCommand):
    def get_help_option(self, ctx: Any) -> Any:
        return _as_flag(super().get_help_option(ctx))


class Group(TyperGroup):
    def get_help_option(self, ctx: Any) -> Any:
        return _as_flag(super().get_help_option(ctx))


class Root(Group):
    """Lists every command; has the one that is called loaded."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args and args[0] in self.commands:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)


def _as_flag(option: Any) -> Any:
    if option is not None:
        option.metavar = ""
    return option


def load(name: str) -> Any:
    """The command or group of this name, with its functions."""
    if name in COMMANDS:
        module, function, _ = COMMANDS[name]
        app = typer.Typer(rich_markup_mode=MARKUP, add_completion=False, pretty_exceptions_enable=False)
        _add(app, name, getattr(import_module(f"cli.{module}"), function))
        return typer.main.get_command(app)
    module, help_text, functions = GROUPS[name]
    group = typer.Typer(
        name=name, help=help_text, cls=Group, rich_markup_mode=MARKUP, add_completion=False, no_args_is_help=True
    )
    for command, function in functions.items():
        _add(group, f"{name} {command}", getattr(import_module(f"cli.{module}"), function))
    return typer.main.get_group(group)


def _add(group: typer.Typer, words: str, function: Callable[..., None]) -> None:
    add_command(group, words, function, Command, STATES.get(words, DEFAULT_STATE))


def root(
    version: Annotated[bool, flag("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"tenantry {installed('tenantry')}")
        raise typer.Exit


def build() -> Any:
    app = typer.Typer(
        name="tenantry",
        cls=Root,
        help=HELP,
        no_args_is_help=True,
        invoke_without_command=True,
        rich_markup_mode=MARKUP,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    group = typer.main.get_group(app)
    lines = {name: line for name, (_, _, line) in COMMANDS.items()} | {
        name: line for name, (_, line, _) in GROUPS.items()
    }
    group.commands = {name: TyperCommand(name=name, help=line) for name, line in lines.items()}
    return group


def with_common_options_last(arguments: Sequence[str]) -> list[str]:
    """`--state X run list` as `run list --state X`: what every command takes is also understood before it."""
    begin = 0
    while begin < len(arguments) and arguments[begin].partition("=")[0] in COMMON:
        name, separate, _ = arguments[begin].partition("=")
        begin += 1 if separate or not COMMON[name] else 2
    common, rest = arguments[:begin], arguments[begin:]
    words = 2 if rest and rest[0] in GROUPS else 1
    return [*rest[:words], *common, *rest[words:]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out one command line; the exit code."""
    arguments = with_common_options_last(sys.argv[1:] if arguments is None else arguments)
    json = "--json" in arguments
    try:
        code = build()(args=arguments, prog_name="tenantry", standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message()
        path = getattr(getattr(error, "ctx", None), "command_path", "tenantry")
        if message.startswith("Usage") or not message.strip():
            typer.echo(message)
        else:
            refuse(Refusal(message.strip().rstrip("."), do=f"See `{path} --help`."), WRONG_USAGE, json=json)
        return WRONG_USAGE
    except typer.Abort:
        refuse(UNANSWERED, FAILED, json=json)
        return FAILED
    except KeyboardInterrupt:
        refuse(STOPPED, FAILED, json=json)
        return FAILED
    except Exception as error:  # noqa: BLE001 - a command's module that cannot be loaded, for example
        refuse(recorded(error, None, os.environ), FAILED, json=json)
        return FAILED
    return code if isinstance(code, int) else 0


def usable_streams() -> None:
    """Refuses to start where standard output is closed; what an encoding does not have is written in its signs."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        refuse(Refusal("Standard output is closed", do="Give it a file, or /dev/null."), FAILED, json=False)
        sys.exit(FAILED)
    codecs.register_error(in_ascii.__name__, in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=in_ascii.__name__)


def run_command() -> None:
    """The console script. A request to terminate is like Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    usable_streams()
    sys.exit(main())


if __name__ == "__main__":
    run_command()
