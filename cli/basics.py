"""`tenantry init` and `tenantry config show`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cli.command import Session
from cli.config import FILE, KEYS
from cli.state import initialise
from crypto.keyring import fingerprint, parse_public
from domain.settings import without_secrets


def init(session: Session) -> None:
    """Make a state directory with its vault key, event key and ledger key.

    Example: `tenantry init --state /var/lib/tenantry`
    """
    jwks = initialise(session.settings)
    key = parse_public(jwks)
    facts = {"state": session.settings.state, "vault_key": key.thumbprint, "fingerprint": fingerprint(key)}
    if session.json:
        session.print_json(facts)
        return
    session.say(f"Initialised {facts['state']}")
    session.say(f"Vault key {facts['vault_key']}")
    session.say(f"Fingerprint to pin: {facts['fingerprint']}")
    session.say(f"Settings, such as clouds of your own, go into {Path(session.settings.state) / FILE}.")
    session.say("Next: `tenantry tenant add ID --domain NAME`, then `tenantry credential set ID --kind ...`.")


def config_show(session: Session) -> None:
    """Show the effective settings and where each came from; what signs in is withheld from URLs.

    Example: `tenantry config show --config /etc/tenantry.toml`
    """
    values = msgspec.to_builtins(session.settings)
    clouds = values.pop("clouds")
    origins = session.effective.origins
    rows = [{"setting": "state", "value": values["state"], "from": origins["state"]}]
    rows += [
        {"setting": key, "value": without_secrets(str(values[field])), "from": origins[key]}
        for field, (key, _) in KEYS.items()
    ]
    rows += [
        {"setting": f"clouds.{name}.{host}", "value": without_secrets(value), "from": origins[f"clouds.{name}"]}
        for name, cloud in clouds.items()
        for host, value in cloud.items()
    ]
    session.show(rows, ("setting", "value", "from"), "No settings.")
