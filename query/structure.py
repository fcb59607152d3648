"""From the structures of rows to the columns of a table. Pure.

DuckDB's `json_structure` gives the structure of one row: a type name, a list of one structure, or an object of them.
Names in DuckDB do not differ by case alone and are never empty; properties may, so columns are renamed, never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec

Structure: TypeAlias = "str | list[Structure] | dict[str, Structure]"

OWN_COLUMNS = ("_tenant", "_collected_at", "_run")
MAX_NESTED_NAMES = 200
"""An object with more names is a map in disguise: it stays JSON instead of becoming as many columns."""
_NUMBERS = ("UBIGINT", "BIGINT", "HUGEINT", "DOUBLE")
_NULL, _TEXT, _JSON = "NULL", "VARCHAR", "JSON"


class Column(msgspec.Struct, frozen=True):
    """`name` in the table, `of` in the row. `direct`: it can be read as a member of the row's struct."""

    name: str
    of: str
    structure: Structure
    direct: bool


def merge(one: Structure, other: Structure) -> Structure:
    """The structure that holds rows of both; JSON where they do not agree."""
    if other in (one, _NULL):
        return one
    if one == _NULL:
        return other
    match one, other:
        case dict(), dict():
            return {name: merge(one.get(name, _NULL), other.get(name, _NULL)) for name in one | other}
        case list(), list():
            return [merge(one[0], other[0])]
        case str(), str() if one in _NUMBERS and other in _NUMBERS:
            return max(one, other, key=_NUMBERS.index)
        case _:
            return _JSON


def settle(structure: Structure, *, wide: bool, flat: bool = False) -> Structure:
    """What DuckDB shall make of it. `wide`: integers may not fit 64 bits. `flat`: what is nested stays JSON text."""
    match structure:
        case "NULL":
            return _TEXT
        case "UBIGINT" | "BIGINT":
            return "HUGEINT" if wide else "BIGINT"
        case str():
            return structure
        case _ if flat:
            return _JSON
        case list():
            return [settle(structure[0], wide=wide)]
        case _:
            if not structure or len(structure) > MAX_NESTED_NAMES or _ambiguous(structure) or "" in structure:
                return _JSON
            return {name: settle(part, wide=wide) for name, part in structure.items()}


def columns_of(
    structures: Iterable[Structure], declared: Sequence[str], *, wide: bool = False, flat: bool = False
) -> list[Column]:
    """The declared columns in their order, then what else the rows have in the order of its appearance.

    A row that is no object has no columns.
    """
    whole: Structure = dict.fromkeys(declared, _NULL)
    for structure in structures:
        whole = merge(whole, structure) if isinstance(structure, dict) else whole
    found = whole if isinstance(whole, dict) else {}
    twice = _ambiguous(found)
    names = unique(list(found), OWN_COLUMNS)
    return [
        Column(name, of, settle(part, wide=wide, flat=flat), of != "" and of.casefold() not in twice)
        for name, (of, part) in zip(names, found.items(), strict=True)
    ]


def unique(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """The names, told apart by `_2`, `_3`... where they differ by case only or are taken already."""
    used = {name.casefold() for name in taken}
    wanted = {name.casefold() for name in names}
    result = []
    for name in names:
        plain = name.replace("\x00", "") or "_"
        candidate, number = plain, 1
        while candidate.casefold() in used or (number > 1 and candidate.casefold() in wanted):
            number += 1
            candidate = f"{plain}_{number}"
        used.add(candidate.casefold())
        result.append(candidate)
    return result


def _ambiguous(names: Iterable[str]) -> set[str]:
    """The names, case folded, that stand for more than one."""
    met: set[str] = set()
    twice: set[str] = set()
    for name in names:
        folded = name.casefold()
        (twice if folded in met else met).add(folded)
    return twice
