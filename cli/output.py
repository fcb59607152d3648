"""What people see: tables as wide as they need, or a record for each row where they do not fit."""

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
COUNTS = frozenset({"rows", "rows_of_last_run", "requests", "collected", "truth"})
CONTROLS = dict.fromkeys((*range(32), 127, *range(128, 160)), "�") | {10: " ", 9: " "}
"""Collected text must not steer the terminal."""


class Page(Console):
    """A console whose reader may go away (`... | head`): that is the caller's to judge."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def new_console() -> Page:
    """As wide as the terminal; in a file or a pipe, wide enough for our tables."""
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


def shown(rows: Sequence[dict[str, Any]], columns: Sequence[str], width: int) -> Table | Text:
    """A table of `columns`; records where one line for each row does not fit `width` characters."""
    headings = [column.replace("_", " ").strip() if column not in ("_tenant", "_run") else column for column in columns]
    cells = [[cell(row.get(column), column) for column in columns] for row in rows]
    wraps, fits = _measured(columns, headings, cells, width)
    if not fits:
        cells = [[short(text) for text in line] for line in cells]
        wraps, fits = _measured(columns, headings, cells, width)
    if not fits:
        return Text("\n").join(record(headings, line, width) for line in cells)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, heading in enumerate(headings):
        numbers = all(isinstance(row.get(columns[place]), int | float | None) for row in rows)
        table.add_column(
            Text(heading), overflow="fold", no_wrap=not wraps[place], justify="right" if numbers else "left"
        )
    for line in cells:
        table.add_row(*map(Text, line))
    return table


def _measured(
    columns: Sequence[str], headings: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> tuple[list[bool], bool]:
    """Which columns wrap, and whether one line for each row fits `width`."""
    widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
    digests = [any(map(DIGEST.fullmatch, column)) for column in zip(*cells, strict=True)] or [False] * len(columns)
    wraps = [
        (column in LONG_COLUMNS or wide > WIDEST_WHOLE) and not digest
        for column, wide, digest in zip(columns, widths, digests, strict=True)
    ]
    least = sum(min(wide, NARROWEST) if long else wide for wide, long in zip(widths, wraps, strict=True))
    return wraps, least + 2 * (len(columns) - 1) <= width


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
