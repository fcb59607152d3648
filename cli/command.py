"""What every command shares: `--state`, `--config`, `--json`, who calls it, refusals and exit codes.

0 done, 1 failed, 2 wrong usage, 3 done but incomplete.
"""

from __future__ import annotations

import functools
import getpass
import inspect
import os
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.config import DEFAULT_STATE, Effective, built_in, load
from cli.files import FULL
from cli.output import json_text, new_console, shown
from cli.refusals import Refusal, refusal_of, refuse
from cli.unexpected import recorded
from domain.errors import TenantryError, UsageError
from domain.settings import Settings

FAILED, WRONG_USAGE, INCOMPLETE = 1, 2, 3


STOPPED = Refusal("Stopped")
UNWRITTEN = Refusal("Cannot write to standard output", do="Free space, and look again.")
UNANSWERED = Refusal(
    "Standard input ended before the answer", do="Nothing was done; answer, or give the option that does."
)


def flag(*names: str, help: str) -> Any:
    """An option that is there or not."""
    return typer.Option(*names, help=help, metavar="")


ConfigOption = Annotated[str | None, typer.Option("--config", metavar="FILE", help="Configuration file.")]
JsonOption = Annotated[bool, flag("--json", help="Print JSON for programs instead of text for people.")]


@dataclass
class Session:
    """One invocation: effective settings and where to print. `command`: its words, such as `tenant add`."""

    effective: Effective
    json: bool
    console: Console
    closing: ExitStack = field(default_factory=ExitStack)
    """What ends with the command."""
    command: str = "tenantry"
    incomplete: bool = False
    """Set by what ends with the command, when that could not be done."""

    @property
    def settings(self) -> Settings:
        return self.effective.settings

    def print_json(self, value: object) -> None:
        sys.stdout.buffer.write(json_text(value) + b"\n")
        sys.stdout.buffer.flush()

    def show(
        self, value: Sequence[dict[str, Any]], columns: Sequence[str], empty: str, *, as_named: bool = False
    ) -> None:
        """A list of objects: JSON as it is, or a table of `columns`. `as_named`: they are the user's own."""
        if self.json:
            self.print_json(value)
        elif not value:
            self.say(empty)
        else:
            width = self.console.width if self.console.is_terminal else None
            table = shown(value, columns, width, as_named=as_named)
            self.console.print(table, highlight=False, soft_wrap=width is None)

    def say(self, text: str, style: str = "") -> None:
        """A line for people, as it stands; nothing in JSON mode."""
        if not self.json:
            wide = not self.console.is_terminal
            self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=wide)

    def refuse(self, refusal: Refusal, code: int) -> None:
        """On standard error."""
        refuse(refusal, code, json=self.json)


def option(session: Session) -> str:
    """What to add to a command so that it finds this state directory, from the current one."""
    place = session.settings.state
    shown = os.path.relpath(place) if Path(place).is_relative_to(Path.cwd()) else place
    return "" if shown == DEFAULT_STATE else f" --state {shlex.quote(shown)}"


def tell(sentence: str) -> None:
    """One line on standard error that is no refusal."""
    sys.stderr.write(f"tenantry: {' '.join(sentence.split())}\n")


def tell_cut(limit: int) -> None:
    """On standard error, of a list that leaves out older ones: nobody takes a part of it for the whole."""
    tell(f"These are the newest {limit:,}; there are older ones. A higher --limit shows more, --tenant fewer.")


def add_command(
    group: typer.Typer,
    words: str,
    function: Callable[..., None],
    cls: type[Any] | None = None,
    default_state: str | None = DEFAULT_STATE,
) -> None:
    """Registers `function(session, ...)` as the last of `words`: the common options are added, errors become one line
    and an exit code. `default_state` None: it uses no state directory and no settings."""

    @functools.wraps(function)
    def invoke(
        *args: Any, state: str | None = None, config: str | None = None, json: bool = False, **kwargs: Any
    ) -> None:
        place: Path | None = None
        try:
            effective = load(state, config, os.environ, Path.cwd()) if default_state else built_in(Path.cwd())
            place = Path(effective.settings.state)
            session = Session(effective, json, new_console(), command=words)
            with session.closing:
                function(session, *args, **kwargs)
            sys.stdout.flush()
            if session.incomplete:
                raise typer.Exit(INCOMPLETE)
        except TenantryError as error:
            code = WRONG_USAGE if isinstance(error, UsageError) else FAILED
            raise _refused(refusal_of(error), code, json) from None
        except BrokenPipeError:
            _nobody_reads()
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:
                raise _refused(recorded(error, place, os.environ), FAILED, json) from None
            _nobody_reads()
            raise _refused(UNWRITTEN._replace(why=error.strerror or ""), FAILED, json) from None
        except KeyboardInterrupt:
            raise _refused(STOPPED, FAILED, json) from None
        except EOFError:
            raise _refused(UNANSWERED, FAILED, json) from None
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence, which records what it was
            raise _refused(recorded(error, place, os.environ), FAILED, json) from None

    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    common = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for option, annotation, default in _common(default_state)
    ]
    invoke.__signature__ = signature.replace(parameters=[*own, *common])  # type: ignore[attr-defined]
    invoke.__annotations__ = {p.name: p.annotation for p in [*own, *common]}
    group.command(words.rpartition(" ")[2], cls=cls)(invoke)


def _common(default_state: str | None) -> list[tuple[str, Any, Any]]:
    """Name, annotation and default of the options that a command shares with others."""
    if default_state is None:
        return [("json", JsonOption, False)]
    text = f"State directory [default: {default_state}]."
    state = Annotated[str | None, typer.Option("--state", metavar="DIR", help=text)]
    return [("state", state, None), ("config", ConfigOption, None), ("json", JsonOption, False)]


def _refused(refusal: Refusal, code: int, json: bool) -> typer.Exit:
    refuse(refusal, code, json=json)
    return typer.Exit(code)


def _nobody_reads() -> None:
    """What is still buffered has nowhere to go: a pipe whose reader has had enough, or a full disk."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)


def now() -> datetime:
    return datetime.now(UTC)


def operator() -> str:
    """The actor of what a command does."""
    return f"operator:{operator_name()}"


def operator_name() -> str:
    """The user by number where the system has no name for it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
