"""What people see: tables as wide as they need, or a record for each row where they do not fit on the terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 150
LONG_COLUMNS = frozenset({"why", "reason", "detail", "facts", "name", "value", "identity"})
"""Columns that wrap where there is not enough room; the others are kept whole, so that they can be copied."""
WIDEST_WHOLE = 44
"""Columns wider than this wrap too, whatever their name."""
NARROWEST = 20
"""A column that wraps is no narrower than this."""
DIGEST = re.compile(r"[0-9a-f]{64}|[A-Za-z0-9_-]{43}")
"""SHA-256 in hex, or in base64url as thumbprints are."""
SHORT_DIGEST = 12
COUNTS = frozenset({"rows", "requests", "collected", "truth"})
PLAIN_SIGNS = {"✓": "+", "✗": "x", "·": "-", "▸": ">", "─": "-", "…": "."}
CONTROLS = dict.fromkeys((*range(32), 127, *range(128, 160)), "�") | {10: " ", 9: " "}
"""Collected text must not steer the terminal."""


def in_ascii(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: our signs where the encoding does not have them, and ? for other characters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN_SIGNS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


class Page(Console):
    """A console whose reader may go away (`... | head`): that is the caller's to judge."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def new_console() -> Page:
    """As wide as the terminal; rules are `PIPE_WIDTH` wide in a file or a pipe, where no line is wrapped."""
    return Page() if sys.stdout.isatty() else Page(width=PIPE_WIDTH)


def cell(value: object, column: str = "") -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value if value.tzinfo is None else value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case int() if column in COUNTS:
            return f"{value:,}"
        case float():
            return f"{value:.1f}"
        case dict():
            return json.dumps(with_text_keys(value), ensure_ascii=False, default=str).translate(CONTROLS)
        case list() | tuple():
            return ", ".join(cell(one) for one in value)
        case _:
            return str(value).translate(CONTROLS)


def json_text(value: object) -> bytes:
    """Indented. What SQL may give is taken too: whole numbers of any size stay numbers, keys of a map become text."""
    try:
        return msgspec.json.format(msgspec.json.encode(value), indent=2)
    except (OverflowError, TypeError):
        plain = msgspec.to_builtins(with_text_keys(value))
        return json.dumps(plain, indent=2, ensure_ascii=False).encode()


def with_text_keys(value: object) -> object:
    match value:
        case dict():
            return {key if isinstance(key, str) else cell(key): with_text_keys(one) for key, one in value.items()}
        case list() | tuple():
            return [with_text_keys(one) for one in value]
        case _:
            return value


def shown(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], width: int | None, *, as_named: bool = False
) -> Table | Text:
    """A table of `columns`; records where one line for each row does not fit `width` characters. None: a line for each
    row, as wide as it needs. `as_named`: columns and values of the user's own, which are not made more readable."""
    headings = [column if as_named or column in ("_tenant", "_run") else column.replace("_", " ") for column in columns]
    cells = [[cell(row.get(column), "" if as_named else column) for column in columns] for row in rows]
    right = [all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns]
    if width is None:
        return aligned(headings, cells, right)
    widths = _measured(columns, headings, cells, width)
    if widths is None:
        cells = [[short(text) for text in line] for line in cells]
        widths = _measured(columns, headings, cells, width)
    if widths is None:
        return Text("\n").join(record(headings, line, width) for line in cells)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, wide, numbers in zip(headings, widths, right, strict=True):
        table.add_column(Text(heading), overflow="fold", width=wide, justify="right" if numbers else "left")
    for line in cells:
        table.add_row(*map(Text, line))
    return table


def aligned(headings: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> Text:
    """Nothing is wrapped or cut, so that a line can be searched for."""
    widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]

    def padded(line: Sequence[str]) -> str:
        parts = []
        for text, wide, numbers in zip(line, widths, right, strict=True):
            space = " " * (wide - cell_len(text))
            parts.append(space + text if numbers else text + space)
        return "  ".join(parts).rstrip()

    return Text("\n".join(map(padded, [headings, *cells])))


def _measured(
    columns: Sequence[str], headings: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> list[int] | None:
    """How wide each column is; None when one line for each row does not fit `width`. Columns that wrap share what the
    others leave, and are as wide as their longest word at least."""
    found = list(zip(headings, *cells, strict=True))
    widths = [max(map(cell_len, column)) for column in found]
    least = [
        max(min(wide, NARROWEST), max((cell_len(word) for text in column for word in text.split()), default=0))
        if (name in LONG_COLUMNS or wide > WIDEST_WHOLE) and not any(map(DIGEST.fullmatch, column))
        else wide
        for name, wide, column in zip(columns, widths, found, strict=True)
    ]
    left = width - 2 * (len(columns) - 1) - sum(least)
    if left < 0:
        return None
    for place in sorted(range(len(columns)), key=lambda place: widths[place] - least[place]):
        more = min(left, widths[place] - least[place])
        least[place] += more
        left -= more
    return least


def short(text: str) -> str:
    """A digest by its beginning; anything else as it is."""
    return f"{text[:SHORT_DIGEST]}..." if DIGEST.fullmatch(text) else text


def record(headings: Sequence[str], line: Sequence[str], width: int) -> Text:
    """The first value, and below it the others with their names, as many to a line as fit."""
    text = Text(line[0], style="bold")
    pairs = (f"{heading} {value}" for heading, value in zip(headings[1:], line[1:], strict=True) if value != "-")
    for filled in packed(pairs, width - 2):
        text.append(f"\n  {filled}", style="not bold")
    return text


def packed(pairs: Iterable[str], width: int) -> list[str]:
    lines: list[str] = []
    for pair in pairs:
        if lines and cell_len(lines[-1]) + 3 + cell_len(pair) <= width:
            lines[-1] += f" · {pair}"
        else:
            lines += wrap(pair, width, subsequent_indent="  ", break_on_hyphens=False)
    return lines
