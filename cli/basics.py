"""`tenantry init` and `tenantry config show`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cli.command import Session, option
from cli.config import FILE, KEYS
from cli.simulated import program
from cli.state import VERSION_FILE, initialise
from crypto.keyring import fingerprint, parse_public
from domain.errors import NotAllowed
from domain.settings import without_secrets

OF_SETTINGS = (".toml", ".pem")


def init(session: Session) -> None:
    """Make a state directory with its vault key, event key and ledger key. It is new, empty, or has nothing in it but
    settings (*.toml) and certificate authorities (*.pem).

    Example: `tenantry init --state /var/lib/tenantry`
    """
    refuse_foreign(Path(session.settings.state))
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
    again = option(session)
    session.say(
        f"Next: `{program()} tenant add ID --domain NAME{again}`, "
        f"then `{program()} credential set ID --kind ...{again}`."
    )


def refuse_foreign(directory: Path) -> None:
    """Raises `NotAllowed` for a directory that somebody uses for something else."""
    if not directory.is_dir() or (directory / VERSION_FILE).exists():
        return
    others = sorted(path.name for path in directory.iterdir() if path.suffix not in OF_SETTINGS)
    if others:
        why = f"{directory} has other files in it, {others[0]} for example"
        raise NotAllowed("initialise", why, "Give a new directory with --state.")
    directory.chmod(0o700)


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
