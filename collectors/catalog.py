"""The catalog: every dataset that can be collected. Ours is `catalog.toml`; a user adds more in the same form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

import msgspec

from collectors.dataset import Dataset
from collectors.throttle import LIMITS
from domain import ids
from domain.errors import AlreadyExists, Malformed, Unreadable
from domain.events import Mode

Catalog = Mapping[ids.Dataset, Dataset]

MAX_FILE_BYTES = 1 << 20
MODES: dict[str, frozenset[Mode]] = {
    "graph": frozenset({"full", "delta", "window", "report", "per-item"}),
    "exchange": frozenset({"full", "per-item"}),
    "exchange-server": frozenset({"full"}),
}
_PATH = re.compile(r"/(v1\.0|beta)(/[A-Za-z0-9_.$()='@{}-]+)+")
_CMDLET = re.compile(r"Get-[A-Za-z0-9]{1,60}")
_PROPERTY = re.compile(r"[A-Za-z_@][A-Za-z0-9_.@]{0,127}")

RULES: tuple[tuple[Callable[[Dataset], bool], str, Callable[[Dataset], object], str], ...] = (
    (
        lambda d: d.workload in ids.workloads_of(d.name),
        "workload",
        lambda d: d.workload,
        "the one that the first part of its name stands for, since the vault releases credentials by that name: entra, "
        "audit and reports are read from graph, exchange from exchange, onprem from exchange-server, any other from "
        "graph or exchange; give the dataset another name",
    ),
    (lambda d: d.mode in MODES[d.workload], "mode", lambda d: d.mode, "a mode that its workload has"),
    (
        lambda d: d.workload != "graph" or bool(_PATH.fullmatch(d.path) and ".." not in d.path),
        "path",
        lambda d: d.path,
        "a Graph path such as /v1.0/users, without a query",
    ),
    (
        lambda d: not d.count or bool(_PATH.fullmatch(d.count) and ".." not in d.count),
        "count",
        lambda d: d.count,
        "a Graph path such as /v1.0/users/$count",
    ),
    (lambda d: not d.count or d.mode == "delta", "count", lambda d: d.count, "none: only mode delta asks for it"),
    (
        lambda d: d.workload == "graph" or bool(_CMDLET.fullmatch(d.cmdlet)),
        "cmdlet",
        lambda d: d.cmdlet,
        "a cmdlet that only reads, such as Get-Mailbox",
    ),
    (lambda d: all(_PROPERTY.fullmatch(s) for s in d.select), "select", lambda d: d.select, "names of properties"),
    (
        lambda d: bool(d.key) and all(ids.key_names(d.key)),
        "key",
        lambda d: d.key,
        "the property (or several, with commas) that identifies a row",
    ),
    (
        lambda d: (d.mode == "per-item") == bool(d.items and d.item_key),
        "items",
        lambda d: d.items,
        "the parent dataset and item-key for mode per-item, and neither for another mode",
    ),
    (
        lambda d: d.mode != "per-item" or d.workload != "graph" or "{item}" in d.path,
        "path",
        lambda d: d.path,
        "{item} where the item belongs",
    ),
    (
        lambda d: d.mode != "window" or bool(_PROPERTY.fullmatch(d.time_property)),
        "time-property",
        lambda d: d.time_property,
        "the property that the window filters by",
    ),
    (lambda d: 0 <= d.page_size <= 5000, "page-size", lambda d: d.page_size, "0 (the service's own) to 5000"),
    (lambda d: 1 <= d.items_per_request <= 20, "items-per-request", lambda d: d.items_per_request, "1 to 20"),
    (lambda d: 1 <= d.step_hours <= 24 * 31, "step-hours", lambda d: d.step_hours, "1 to 744"),
    (lambda d: 1 <= d.lookback_days <= 366, "lookback-days", lambda d: d.lookback_days, "1 to 366"),
    (lambda d: 0 <= d.overlap_hours <= 24 * 7, "overlap-hours", lambda d: d.overlap_hours, "0 to 168"),
    (
        lambda d: d.throttled_by.partition("/")[0] in LIMITS,
        "bucket",
        lambda d: d.bucket,
        f"one of {', '.join(LIMITS)}",
    ),
    (lambda d: 0 < d.cost <= 1000, "cost", lambda d: d.cost, "more than 0, at most 1000"),
)
"""What a row must satisfy: (test, field, its value, what is expected)."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    dataset: list[Dataset] = []


def load_catalog(user_file: str = "") -> dict[ids.Dataset, Dataset]:
    """All datasets by name, parents before their children. Raises `Unreadable`, `Malformed` or `AlreadyExists`."""
    found = _read(files("collectors").joinpath("catalog.toml").read_bytes(), "catalog.toml")
    if user_file:
        found += _read(_user_bytes(user_file), user_file)
    catalog: dict[ids.Dataset, Dataset] = {}
    for row in found:
        _check(row)
        if row.name in catalog:
            raise AlreadyExists("Dataset", row.name, "Give the dataset in your catalog file another name.")
        catalog[row.name] = row
    return in_order(catalog)


def in_order(catalog: Catalog) -> dict[ids.Dataset, Dataset]:
    """The same datasets, each behind the ones that it waits for (`after`, `items`). Raises `Malformed`."""
    ordered: dict[ids.Dataset, Dataset] = {}
    waiting = dict(catalog)
    while waiting:
        ready = [n for n, d in waiting.items() if all(not p or p in ordered for p in (d.after, d.items))]
        if not ready:
            name, stuck = next(iter(waiting.items()))
            raise Malformed("parent of a dataset", f"{name} after {stuck.after or stuck.items}", "no cycle, no gap")
        for name in ready:
            ordered[name] = waiting.pop(name)
    return ordered


def _user_bytes(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unreadable("catalog", path, error.strerror or "no answer", "Check the setting `catalog`.") from error
    if len(content) > MAX_FILE_BYTES:
        raise Unreadable("catalog", path, f"it is larger than {MAX_FILE_BYTES} bytes", "Split or shorten it.")
    return content


def _read(content: bytes, path: str) -> list[Dataset]:
    try:
        return msgspec.toml.decode(content, type=_File).dataset
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable("catalog", path, str(error), "Compare it with catalog.toml of the package.") from error


def _check(row: Dataset) -> None:
    ids.dataset(row.name)
    for holds, field, value, expected in RULES:
        if not holds(row):
            raise Malformed(f"{field} of dataset {row.name}", str(value(row)), expected)
