"""What an actor was made of: the code that its process runs, and the settings it was given."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from collectors.catalog import load_catalog
from domain.settings import Settings

PACKAGES = ("actors", "collectors", "crypto", "domain", "eventstore", "projections", "vault")
"""Those that an actor runs."""


def build_of(settings: Settings) -> str:
    """SHA-256 in hex: equal where code, catalog and settings are. How Ray is reached, and how many actors there are,
    may differ from driver to driver."""
    common = msgspec.structs.replace(
        settings, ray_address="", tenant_actors=1, graph_collectors=1, powershell_collectors=1
    )
    found = hashlib.sha256(msgspec.json.encode([common, dict(load_catalog(settings.catalog))]))
    root = Path(__file__).parents[1]
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            found.update(msgspec.json.encode([str(path.relative_to(root)), path.read_bytes()]))
    return found.hexdigest()
