"""The same system with its keys and envelopes in Azure Key Vault: a process of its own finds its identity in its
environment, as a deployment would."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import driver
import folds
import pytest
from estate import Estate
from truth import collected, differences

from cli.data import released_data_key
from cli.state import stop_keyholder
from domain.events import RunRequested
from domain.ids import Dataset, TenantId, new_run_id, run_stream, tenant_id
from eventstore.batches import open_batch_store
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import KEY_VAULT, App, AppSecret, World

NAMES = ("entra.organization", "entra.users", "exchange.mailboxes")


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> World:
    """A directory with the vault, and the application whose identity stands in the environment."""
    now = datetime.now(UTC).replace(microsecond=0)
    home = populate(seed=7, name="Home", users=1, now=now)
    home.settings["key_vault"] = True
    known = AppSecret(secrets.token_urlsafe(16), now + timedelta(days=1))
    app = App(str(uuid4()), "tenantry", secrets=[known], consented={KEY_VAULT})
    home.apps[app.client_id] = app
    for name, value in (("TENANT_ID", home.id), ("CLIENT_ID", app.client_id), ("CLIENT_SECRET", known.value)):
        monkeypatch.setenv(f"AZURE_{name}", value)
    world = World()
    world.tenants[home.id] = home
    return world


def test_a_tenant_is_collected_with_every_key_in_key_vault(vault: World, tmp_path: Path) -> None:
    with Simulator(vault) as simulator:
        changes = {
            "secrets": simulator.url,
            "secrets_authority": simulator.url,
            "secrets_ca_bundle": str(simulator.ca_file),
        }
        estate = Estate(simulator, tmp_path / "state", changes)
        tenant = estate.add_tenant(40, "app-secret")
        run, store = new_run_id(datetime.now(UTC), secrets.randbits(32)), estate.state.store
        event = RunRequested(run=run, tenant=tenant_id(tenant.id), datasets=tuple(map(Dataset, NAMES)))
        store.append(run_stream(run), 0, [event], at=datetime.now(UTC), actor="operator:test", cause=run)

        process = driver.start(estate.settings)
        assert process.wait(60) == 0

        state = folds.run(recorded.event for recorded in store.read(run_stream(run)))  # type: ignore[misc]
        assert state is not None
        assert [one.outcome for one in state.outcomes] == ["complete"] * 3, state
        key = released_data_key(estate.state, TenantId(tenant.id), "compare with the truth")
        batches = open_batch_store(estate.settings.batches)
        for name in NAMES:
            assert differences(tenant, name, collected(store, batches, TenantId(tenant.id), name, key)) == []
        assert not (tmp_path / "state" / "secrets").exists()
        assert {note[1] for note in vault.requests if note[1].startswith("keyvault.")}
        estate.state.keyholder.close()
        stop_keyholder(estate.settings)
        store.close()
        estate.state.secrets.close()  # type: ignore[attr-defined]
