"""Rows as CLIXML, the object notation of PowerShell remoting ([MS-PSRP] 2.2.5).

Type names are those of the server's objects: a PowerShell client puts `Deserialized.` before them when it reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID
from xml.sax.saxutils import escape, quoteattr

ESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\U00010000-\U0010ffff]|_(?=[xX])")
LIST_TYPES = "<T>System.Collections.ArrayList</T><T>System.Object</T>"


def text(value: str) -> str:
    """Text as an element's content: control characters and the halves of a surrogate pair become `_xHHHH_`."""
    return escape(ESCAPED.sub(_escaped, value))


def _escaped(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"_x{units[i]:02X}{units[i + 1]:02X}_" for i in range(0, len(units), 2))


def span(value: timedelta) -> str:
    """A TimeSpan as an XML duration: `P14D`, `PT6H`."""
    hours, rest = divmod(value.seconds, 3600)
    parts = ((hours, "H"), (rest // 60, "M"), (rest % 60, "S"))
    clock = "".join(f"{count}{unit}" for count, unit in parts if count)
    days = f"{value.days}D" if value.days else ""
    return f"P{days}{'T' + clock if clock else ''}" if days or clock else "PT0S"


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as a client that keeps CLIXML's own texts reads it: GUIDs, times and durations are strings."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    match value:
        case UUID():
            return str(value)
        case datetime():
            return moment(value)
        case timedelta():
            return span(value)
        case _:
            return value


def moment(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


def document(type_names: Sequence[str], row: Mapping[str, Any]) -> bytes:
    """One object with the row's values as its adapted properties."""
    parts = ['<Obj RefId="0"><TN RefId="0">', *(f"<T>{text(name)}</T>" for name in type_names), "</TN>"]
    if row.get("Name"):
        parts.append(f"<ToString>{text(str(row['Name']))}</ToString>")
    parts.append("<Props>")
    lists = 0
    for name, value in row.items():
        attribute = f"N={quoteattr(name)}"
        if isinstance(value, list):
            lists += 1
            types = f'<TN RefId="1">{LIST_TYPES}</TN>' if lists == 1 else '<TNRef RefId="1" />'
            items = "".join(f"<S>{text(str(item))}</S>" for item in value)
            parts.append(f'<Obj {attribute} RefId="{lists}">{types}<LST>{items}</LST></Obj>')
        else:
            parts.append(_primitive(attribute, value))
    parts.append("</Props></Obj>")
    return "".join(parts).encode()


def _primitive(attribute: str, value: Any) -> str:
    match value:
        case None:
            return f"<Nil {attribute} />"
        case bool():
            return f"<B {attribute}>{str(value).lower()}</B>"
        case int():
            tag = "I32" if -(1 << 31) <= value < 1 << 31 else "I64"
            return f"<{tag} {attribute}>{value}</{tag}>"
        case UUID():
            return f"<G {attribute}>{value}</G>"
        case datetime():
            return f"<DT {attribute}>{moment(value)}</DT>"
        case timedelta():
            return f"<TS {attribute}>{span(value)}</TS>"
        case _:
            return f"<S {attribute}>{text(str(value))}</S>"
