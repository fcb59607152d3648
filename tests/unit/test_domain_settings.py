"""Clouds and settings are values: complete, the same after travelling, and closed."""

from __future__ import annotations

import pickle
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.settings import CLOUDS, Cloud, Settings

HOSTS = [field for field in Cloud.__struct_fields__ if field != "ca_bundle"]


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=list(CLOUDS))
@pytest.mark.parametrize("host", HOSTS)
def test_a_cloud_is_a_row_of_origins(cloud: Cloud, host: str) -> None:
    origin = getattr(cloud, host)
    if (cloud, host) == (CLOUDS["china"], "activity"):
        assert origin == ""
        return
    parts = urlsplit(origin)
    assert parts.scheme == "https"
    assert parts.hostname == origin.removeprefix("https://")
    assert not cloud.ca_bundle


def test_an_access_token_of_one_cloud_is_sent_to_no_other() -> None:
    for host in ("graph", "exchange", "compliance", "activity"):
        assert len({getattr(cloud, host) for cloud in CLOUDS.values()}) == len(CLOUDS)


@given(places=st.lists(st.text(max_size=20), min_size=8, max_size=8), counts=st.integers(1, 256))
def test_settings_arrive_as_they_were_sent(places: list[str], counts: int) -> None:
    state, eventstore, secrets, batches, ray, passphrase, catalog, bundle = places
    settings = Settings(
        state=state,
        eventstore=eventstore,
        secrets=secrets,
        batches=batches,
        clouds=CLOUDS,
        ray_address=ray,
        passphrase_file=passphrase,
        catalog=catalog,
        secrets_ca_bundle=bundle,
        tenant_actors=counts,
    )
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 - our own bytes
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


@pytest.mark.parametrize("name", ["password", "key", "passphrase"])
def test_a_setting_that_would_be_a_secret_is_refused(name: str) -> None:
    settings = Settings(state="", eventstore="", secrets="", batches="", clouds={})
    with pytest.raises(msgspec.ValidationError, match=name):
        msgspec.convert({**msgspec.to_builtins(settings), name: "x"}, Settings)
