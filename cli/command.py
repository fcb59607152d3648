"""What every command shares: `--state`, `--config`, `--json`, one-line errors and exit codes.

0 done, 1 failed, 2 wrong usage, 3 done but incomplete.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.config import Effective, load
from cli.output import json_text, new_console, shown
from cli.unexpected import recorded
from domain.errors import TenantryError, UsageError
from domain.settings import Settings

FAILED, WRONG_USAGE, INCOMPLETE = 1, 2, 3


def flag(*names: str, help: str) -> Any:
    """An option that is there or not."""
    return typer.Option(*names, help=help, metavar="")


StateOption = Annotated[
    str | None, typer.Option("--state", metavar="DIR", help="State directory [default: .tenantry].")
]
ConfigOption = Annotated[str | None, typer.Option("--config", metavar="FILE", help="Configuration file.")]
JsonOption = Annotated[bool, flag("--json", help="Print JSON for programs instead of text for people.")]
COMMON = (("state", StateOption, None), ("config", ConfigOption, None), ("json", JsonOption, False))


@dataclass
class Session:
    """One invocation: effective settings and where to print."""

    effective: Effective
    json: bool
    console: Console
    closing: ExitStack = field(default_factory=ExitStack)
    """What ends with the command."""

    @property
    def settings(self) -> Settings:
        return self.effective.settings

    def print_json(self, value: object) -> None:
        sys.stdout.buffer.write(json_text(value) + b"\n")
        sys.stdout.buffer.flush()

    def show(self, value: Sequence[dict[str, Any]], columns: Sequence[str], empty: str) -> None:
        """A list of objects: JSON as it is, or a table of `columns`."""
        if self.json:
            self.print_json(value)
        elif not value:
            self.say(empty)
        else:
            self.console.print(shown(value, columns, self.console.width), highlight=False)

    def say(self, text: str, style: str = "") -> None:
        """A line for people, as it stands; nothing in JSON mode."""
        if not self.json:
            self.console.print(text, style=style, markup=False, highlight=False)


def tell(sentence: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"tenantry: {' '.join(sentence.split())}\n")


def add_command(group: typer.Typer, name: str, function: Callable[..., None], cls: type[Any] | None = None) -> None:
    """Registers `function(session, ...)`: the common options are added, errors become one line and an exit code."""

    @functools.wraps(function)
    def invoke(
        *args: Any, state: str | None = None, config: str | None = None, json: bool = False, **kwargs: Any
    ) -> None:
        place: Path | None = None
        try:
            effective = load(state, config, os.environ, Path.cwd())
            place = Path(effective.settings.state)
            session = Session(effective, json, new_console())
            with session.closing:
                function(session, *args, **kwargs)
            sys.stdout.flush()
        except TenantryError as error:
            tell(str(error))
            raise typer.Exit(WRONG_USAGE if isinstance(error, UsageError) else FAILED) from None
        except BrokenPipeError:
            _nobody_reads()
        except KeyboardInterrupt:
            tell("Stopped.")
            raise typer.Exit(FAILED) from None
        except EOFError:
            tell("Standard input ended before the answer. Nothing was done; answer, or give the option that does.")
            raise typer.Exit(FAILED) from None
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as error:  # noqa: BLE001 - the last line of defence, which records what it was
            tell(recorded(error, place, os.environ))
            raise typer.Exit(FAILED) from None

    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    common = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for option, annotation, default in COMMON
    ]
    invoke.__signature__ = signature.replace(parameters=[*own, *common])  # type: ignore[attr-defined]
    invoke.__annotations__ = {p.name: p.annotation for p in [*own, *common]}
    group.command(name, cls=cls)(invoke)


def _nobody_reads() -> None:
    """The reader of a pipe has had enough. What is still buffered has nowhere to go."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)


def now() -> datetime:
    return datetime.now(UTC)
