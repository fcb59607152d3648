"""What is said on standard error: one line for people, one JSON object for programs."""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

import msgspec

from domain.errors import TenantryError

DIVIDED = re.compile(r"(?P<error>.*?)(?:: (?P<why>.*?))?(?:\. (?P<do>.+)|\.)?", re.DOTALL)
"""The sentence of an error as it is written in its class: what happened, why, what to do."""


class Refusal(NamedTuple):
    """`why` and `do` are empty where there is nothing to say. None of them ends in a full stop, but `do`."""

    error: str
    why: str = ""
    do: str = ""

    def line(self) -> str:
        said = f"{self.error}: {self.why}" if self.why else self.error
        said = f"{said} {self.do}" if said.endswith((".", "?")) else f"{said}. {self.do}"
        return " ".join(said.split())

    def object(self, code: int) -> dict[str, str | int | None]:
        """The JSON form that others build on; `exit`: the exit code of the command."""
        facts = {name: " ".join(text.split()) or None for name, text in self._asdict().items()}
        return {**facts, "exit": code}


def refusal_of(error: TenantryError) -> Refusal:
    """What the error says, divided where the sentence of its class is."""
    divided = DIVIDED.fullmatch(error.sentence)
    parts = divided.groupdict("") if divided else {"error": error.sentence}
    return Refusal(**{name: text.format(*error.args) for name, text in parts.items()})


def refuse(refusal: Refusal, code: int, *, json: bool) -> None:
    """On standard error."""
    if json:
        sys.stderr.write(msgspec.json.encode(refusal.object(code)).decode() + "\n")
    else:
        sys.stderr.write(f"tenantry: {refusal.line()}\n")
