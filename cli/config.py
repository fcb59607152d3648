"""Effective settings: built-in defaults, then `tenantry.toml`, then `TENANTRY_*` variables, then options.

Each value remembers where it came from, for `tenantry config show`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from domain.errors import Malformed, Unreadable
from domain.settings import CLOUDS, Cloud, Settings, without_secrets

FILE = "tenantry.toml"
MAX_FILE_BYTES = 1 << 20
DEFAULT_STATE = ".tenantry"

KEYS: dict[str, tuple[str, str]] = {
    "eventstore": ("eventstore.url", "sqlite://{state}/events.db"),
    "secrets": ("secrets.url", "file://{state}/secrets"),
    "batches": ("batches.url", "file://{state}/batches"),
    "ray_address": ("ray.address", "local"),
    "passphrase_file": ("vault.passphrase_file", "{state}/keys/passphrase"),
    "custody": ("vault.custody", "file"),
    "key_type": ("vault.key_type", "RSA"),
    "catalog": ("collection.catalog", ""),
    "secrets_authority": ("secrets.authority", ""),
    "secrets_ca_bundle": ("secrets.ca_bundle", ""),
    "tenant_actors": ("ray.tenant_actors", "2"),
    "graph_collectors": ("ray.graph_collectors", "1"),
    "powershell_collectors": ("ray.powershell_collectors", "1"),
}
"""Field of `Settings` to its place in the file and its default. The variable is `TENANTRY_` and that in capitals."""
MOST_ACTORS = 256


class Effective(msgspec.Struct, frozen=True):
    """`origins`: dotted key to `default`, the file, the variable or the option that set it."""

    settings: Settings
    origins: dict[str, str]


class File(msgspec.Struct, forbid_unknown_fields=True):
    """What `tenantry.toml` may contain."""

    state: str | None = None
    eventstore: dict[str, str] = {}
    secrets: dict[str, str] = {}
    batches: dict[str, str] = {}
    vault: dict[str, str] = {}
    collection: dict[str, str] = {}
    ray: dict[str, str | int] = {}
    clouds: dict[str, Cloud] = {}


def load(state: str | None, config: str | None, environment: Mapping[str, str], cwd: Path) -> Effective:
    """Raises `Unreadable` for a missing or wrong file and `Malformed` for a wrong value."""
    path = _file_path(state, config, environment, cwd)
    return _effective(_read(path) if path else File(), str(path) if path else "", state, environment, cwd)


def built_in(cwd: Path) -> Effective:
    """The defaults alone, for what uses no state directory."""
    return _effective(File(), "", None, {}, cwd)


def _effective(file: File, origin: str, state: str | None, environment: Mapping[str, str], cwd: Path) -> Effective:
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    values["state"], origins["state"] = _state(state, environment, file, origin)
    directory = Path(values["state"])
    base = directory if directory.is_absolute() else cwd / directory
    for field, (key, default) in KEYS.items():
        section, name = key.split(".")
        variable = f"TENANTRY_{key.replace('.', '_').upper()}"
        table: Mapping[str, str | int] = getattr(file, section)
        if variable in environment:
            values[field], origins[key] = environment[variable], variable
        elif name in table:
            values[field], origins[key] = str(table[name]), origin
        else:
            values[field], origins[key] = default.format(state=base.resolve()), "default"
    _refuse_unknown(file, origin)
    origins |= {f"clouds.{name}": origin if name in file.clouds else "default" for name in {**CLOUDS, **file.clouds}}
    settings = Settings(
        state=str(base.resolve()),
        eventstore=_absolute(values["eventstore"], "sqlite", cwd),
        secrets=_absolute(values["secrets"], "file", cwd),
        batches=_absolute(values["batches"], "file", cwd),
        ray_address=values["ray_address"],
        clouds={**CLOUDS, **{name: _cloud(name, cloud, cwd) for name, cloud in file.clouds.items()}},
        passphrase_file=_path(cwd, values["passphrase_file"]),
        custody=values["custody"],
        key_type=values["key_type"],
        catalog=_path(cwd, values["catalog"]),
        secrets_authority=values["secrets_authority"],
        secrets_ca_bundle=_path(cwd, values["secrets_ca_bundle"]),
        tenant_actors=_count("ray.tenant_actors", values["tenant_actors"]),
        graph_collectors=_count("ray.graph_collectors", values["graph_collectors"]),
        powershell_collectors=_count("ray.powershell_collectors", values["powershell_collectors"]),
    )
    return Effective(settings, origins)


def _file_path(state: str | None, config: str | None, environment: Mapping[str, str], cwd: Path) -> Path | None:
    """The named file, or the first of the state directory's own and the current directory's that is there."""
    if named := config or environment.get("TENANTRY_CONFIG"):
        return cwd / named
    directory = state or environment.get("TENANTRY_STATE") or DEFAULT_STATE
    try:
        return next((path for path in (cwd / directory / FILE, cwd / FILE) if path.is_file()), None)
    except OSError as error:
        raise Unreadable("state directory", directory, error.strerror or "", "Check its permissions.") from error


def _state(state: str | None, environment: Mapping[str, str], file: File, origin: str) -> tuple[str, str]:
    if state:
        return state, "--state"
    if environment.get("TENANTRY_STATE"):
        return environment["TENANTRY_STATE"], "TENANTRY_STATE"
    return (file.state, origin) if file.state else (DEFAULT_STATE, "default")


def _read(path: Path) -> File:
    try:
        with path.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise Unreadable("configuration", str(path), "it has more than 1 MiB", "Check --config.")
        return msgspec.toml.decode(content, type=File)
    except OSError as error:
        raise Unreadable("configuration", str(path), error.strerror or "", "Check --config.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable("configuration", str(path), str(error), "Compare it with `tenantry config show`.") from error


def _refuse_unknown(file: File, origin: str) -> None:
    known = [key for key, _ in KEYS.values()]
    for section in ("eventstore", "secrets", "batches", "vault", "collection", "ray"):
        for name in getattr(file, section):
            if f"{section}.{name}" not in known:
                raise Malformed(f"setting in {origin}", f"{section}.{name}", ", ".join(known))


def _absolute(url: str, scheme: str, cwd: Path) -> str:
    """`file:///a` stays; `file:///.a` lies in the current directory. URLs of services stay as they are."""
    if not url.startswith(f"{scheme}:///"):
        if url.partition(":")[0] in (scheme, url):
            raise Malformed("URL", without_secrets(url), f"{scheme}:///path or the URL of a service")
        return url
    path = url.removeprefix(f"{scheme}://")
    return f"{scheme}://{(cwd / path[1:] if path.startswith('/.') else Path(path)).resolve()}"


def _cloud(name: str, cloud: Cloud, cwd: Path) -> Cloud:
    for host in ("login", "graph", "exchange", "compliance", "activity"):
        if host == "activity" and not cloud.activity:
            continue
        if not _is_origin(getattr(cloud, host)):
            shown = without_secrets(getattr(cloud, host))
            raise Malformed(f"{host} of cloud {name}", shown, "an origin such as https://host[:port]")
    bundle = cloud.ca_bundle and str(cwd / cloud.ca_bundle)
    return msgspec.structs.replace(cloud, ca_bundle=bundle)


def _is_origin(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname) and parts.path in ("", "/") and not parts.query


def _path(cwd: Path, value: str) -> str:
    return str(cwd / value) if value else ""


def _count(key: str, value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= MOST_ACTORS:
        raise Malformed(key, value, f"a number from 1 to {MOST_ACTORS}")
    return int(value)
