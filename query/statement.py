"""What a statement asks for, before anything is loaded: one reading statement, and the tables it names."""

from __future__ import annotations

import re
from collections.abc import Collection

import duckdb
import msgspec

from domain.errors import Malformed, NotAllowed, TenantryError, Unknown

MAX_STATEMENT_CHARACTERS = 100_000
ACCEPTED = "one SELECT statement (or WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN)"
_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_NO_TABLE = re.compile(r"Table with name (.+?) does not exist")
_SHOWN = 80


class Wanted(msgspec.Struct, frozen=True):
    """`tables` to fill; `overview`: the catalog itself is asked for, so all tables must be there."""

    tables: tuple[str, ...]
    overview: bool


def examine(connection: duckdb.DuckDBPyConnection, statement: str, tables: Collection[str]) -> Wanted:
    """Raises `Malformed` for anything but one reading statement, `Unknown` for a table that is not in `tables`.

    DuckDB names the tables of a statement, but gives up on some (`JOIN ... USING`, `SHOW`) when these do not exist
    yet: then every word that is a table counts as one, and what is missing still shows when the statement runs.
    """
    shown = " ".join(statement.split())
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
    if len(statement) > MAX_STATEMENT_CHARACTERS:
        raise Malformed("statement", shown, f"at most {MAX_STATEMENT_CHARACTERS} characters")
    try:
        parsed = connection.extract_statements(statement)
    except duckdb.Error as error:
        raise Malformed("statement", shown, f"SQL ({one_line(error)})") from None
    if len(parsed) != 1 or parsed[0].type not in _READING:
        raise Malformed("statement", shown, ACCEPTED)
    known = {table.casefold(): table for table in tables}
    try:
        named = connection.get_table_names(parsed[0].query)
    except duckdb.Error:
        words = {word.casefold() for word in re.findall(r"\w+", statement)}
        return Wanted(tuple(sorted(known[word] for word in words & known.keys())), overview=False)
    system = {str(name) for (name,) in connection.execute("SELECT view_name FROM duckdb_views()").fetchall()}
    others = {name for name in named if name.casefold() not in known}
    for name in sorted(others - system):
        raise unknown_table(name, tables)
    wanted = sorted(known[name.casefold()] for name in named - others)
    return Wanted(tuple(wanted), overview=not wanted or bool(others))


def unknown_table(name: str, tables: Collection[str]) -> Unknown:
    return Unknown("table", name, f"There are: {', '.join(sorted(tables))}.")


def failed(error: duckdb.Error, tables: Collection[str], memory_bytes: int) -> TenantryError:
    """DuckDB's refusal of a statement as one of our errors."""
    if isinstance(error, duckdb.OutOfMemoryException):
        why = f"it needs more than {memory_bytes // 2**20} MiB of memory"
        return NotAllowed("run the statement", why, "Ask for fewer columns or tenants, or allow more memory.")
    text = str(error)
    if isinstance(error, duckdb.CatalogException) and (found := _NO_TABLE.search(text)) and found[1] not in tables:
        return unknown_table(found[1], tables)
    if "pytz" in text:
        why = "its result has a TIMESTAMP WITH TIME ZONE"
        return NotAllowed("show the result", why, "Cast it, for example now()::TIMESTAMP.")
    return NotAllowed("run the statement", one_line(error), "DESCRIBE a table to see its columns.")


def one_line(error: duckdb.Error) -> str:
    """The message without the picture of the place that DuckDB draws below it."""
    text = str(error).split("\n\nLINE ", 1)[0]
    return " ".join(text.split())[:500].rstrip(".")
