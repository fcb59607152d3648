"""Rows by key: how what one page says changes what is known. Pure, and on bytes.

A row stays the bytes that Microsoft sent. It is decoded only where its statement is partial, which is Graph delta:

- `"@removed": {...}` says that the object is gone, whatever the reason;
- a row of an object that is known holds only the properties that changed (delta query overview);
- `"members@delta": [{"id": ...}, {"id": ..., "@removed": {...}}]` adds to and removes from a list that may go on in
  further rows of the same object. The row shown has the whole list, as `"members": [ids]`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, cast

import msgspec

from domain.events import Mode
from domain.ids import RunId

REMOVED = "@removed"
LINKS = "@delta"
_REMOVED_MARK = b'"@removed"'
_LINKS_MARK = b'@delta"'

Key = str | bytes | tuple[str, ...]
"""Text of the key property, one text for each of several, or the row itself where it has no key."""


class DatasetShape(msgspec.Struct, frozen=True, kw_only=True):
    """What a table needs to know of a dataset.

    `key`: the property that tells rows apart, several joined by commas, or None: rows are told apart by their bytes.
    `columns`: those the table has even when no row does.
    """

    key: str | None
    mode: Mode
    columns: tuple[str, ...] = ()


class Row(msgspec.Struct, frozen=True, gc=False):
    """One item as it was sent, when its batch was recorded, and by which run."""

    raw: bytes
    collected_at: datetime
    run: RunId


class Kept(msgspec.Struct, gc=False):
    """A row in the making. `links`: for each linked list, ids that are in it (True) or were taken out (False)."""

    raw: bytes
    collected_at: datetime
    run: RunId
    links: dict[str, dict[str, bool]] | None = None

    def row(self) -> Row:
        raw = self.raw if self.links is None else _with_links(self.raw, self.links)
        return Row(raw, self.collected_at, self.run)


Layer = dict[Key, Kept | None]
"""What is known by key; None: it is known to be gone."""


class _Link(msgspec.Struct):
    id: str
    removed: Any = msgspec.field(default=None, name=REMOVED)


_links = msgspec.json.Decoder(list[_Link])
_properties = msgspec.json.Decoder(dict[str, msgspec.Raw])


def key_of(names: tuple[str, ...]) -> Callable[[bytes], Key]:
    """How to find a row's key. A row that lacks a part of its key, or has a number there that no double holds, is told
    apart by its bytes, so none is lost."""
    if not names:
        return lambda raw: raw
    shape = msgspec.defstruct(
        "KeyProperties",
        [(f"part{n}", Any, msgspec.field(default=None, name=name)) for n, name in enumerate(names)],
        gc=False,
    )
    decoder = msgspec.json.Decoder(shape)
    fields = shape.__struct_fields__
    if len(fields) == 1:

        def single(raw: bytes) -> Key:
            try:
                value = decoder.decode(raw).part0  # type: ignore[attr-defined]
            except msgspec.ValidationError:
                return raw
            return value if isinstance(value, str) and value else _text(value) or raw

        return single

    def several(raw: bytes) -> Key:
        try:
            found = decoder.decode(raw)
        except msgspec.ValidationError:
            return raw
        parts = tuple(_text(getattr(found, field)) for field in fields)
        return cast("tuple[str, ...]", parts) if all(parts) else raw

    return several


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return msgspec.json.encode(value).decode()


def put(layer: Layer, key: Key, row: Kept) -> None:
    """The row replaces the one that has its key."""
    layer[key] = row


def change(layer: Layer, key: Key, row: Kept) -> None:
    """A row of Graph delta: removes, or adds to what is known of the object."""
    if _LINKS_MARK not in row.raw:
        if _REMOVED_MARK in row.raw and REMOVED in _properties.decode(row.raw):
            layer[key] = None
            return
        known = layer.get(key)
        if known is None:
            layer[key] = row
            return
        row.raw = msgspec.json.encode(_properties.decode(known.raw) | _properties.decode(row.raw))
        row.links = known.links
        layer[key] = row
        return
    properties = _properties.decode(row.raw)
    if REMOVED in properties:
        layer[key] = None
        return
    links = _take_links(properties)
    known = layer.get(key)
    if known is not None:
        properties = _properties.decode(known.raw) | properties
        links = _join(known.links, links)
    row.raw, row.links = msgspec.json.encode(properties), links or None
    layer[key] = row


def lay_over(known: Layer, seen: Layer) -> None:
    """What an incomplete whole attempt saw: its rows replace those they meet, but a list it did not end only grows."""
    for key, row in seen.items():
        before = known.get(key)
        if row is not None and before is not None and before.links is not None:
            row.links = _join(before.links, row.links or {})
        known[key] = row


def _take_links(properties: dict[str, msgspec.Raw]) -> dict[str, dict[str, bool]]:
    """Takes the `NAME@delta` lists out. One that is no list of objects with ids stays a property as it is."""
    links: dict[str, dict[str, bool]] = {}
    for name in [name for name in properties if name.endswith(LINKS)]:
        try:
            entries = _links.decode(properties[name])
        except msgspec.ValidationError:
            continue
        del properties[name]
        links[name.removesuffix(LINKS)] = {entry.id: entry.removed is None for entry in entries}
    return links


def _join(before: dict[str, dict[str, bool]] | None, after: dict[str, dict[str, bool]]) -> dict[str, dict[str, bool]]:
    """Both arguments may be changed: a layer owns its rows."""
    joined = before or {}
    for name, ids in after.items():
        joined.setdefault(name, {}).update(ids)
    return joined


def _with_links(raw: bytes, links: dict[str, dict[str, bool]]) -> bytes:
    lists = {
        name: msgspec.Raw(msgspec.json.encode([one for one, here in ids.items() if here]))
        for name, ids in links.items()
    }
    return msgspec.json.encode(_properties.decode(raw) | lists)
