"""Clouds and settings are values: complete, the same after travelling, closed, and shown without a secret."""

from __future__ import annotations

import pickle
from urllib.parse import urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.settings import CLOUDS, HIDDEN, Cloud, Settings, without_secrets

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


WITHHELD = {
    "az://c/p?sig=SECRET": "az://c/p?sig=***",
    "https://acct.example/x?sv=2024-01-01&sig=SECRET": "https://acct.example/x?sv=***&sig=***",
    "https://acct.example/x?SECRET": "https://acct.example/x?***",
    "https://acct.example/x#SECRET": "https://acct.example/x#***",
    "postgresql://host:5432/db?user=u&password=SECRET": "postgresql://host:5432/db?user=***&password=***",
    "postgresql://host/db?password=p@SECRET": "postgresql://***",
    "postgresql://u:SECRET@host/db": "postgresql://***@host/db",
    "postgresql://u:pa/SECRET@host/db": "postgresql://***@host/db",
    "postgresql://u:p@SECRET@host/db": "postgresql://***@host/db",
    "postgresql://u:p?SECRET@host/db": "postgresql://***",
    "postgresql://u:p#SECRET@host/db": "postgresql://***",
    "postgresql://u:SECRET@host/db?sslkey=SECRET": "postgresql://***@host/db?sslkey=***",
    "postgresql:u:SECRET@host/db": "postgresql:***@host/db",
    "https://[SECRET/y": "https://***",
    "host=db password=SECRET": "***",
    "AccountName=a;AccountKey=SECRET;BlobEndpoint=https://a.example": "***",
}


@pytest.mark.parametrize("url", WITHHELD)
def test_what_signs_in_is_withheld_from(url: str) -> None:
    assert without_secrets(url) == WITHHELD[url]


@pytest.mark.parametrize(
    "place",
    [
        "sqlite:////home/me@corp/.tenantry/events.db",
        "file:///tmp/a?b=c#d/secrets",
        "/home/me@corp/passphrase",
        "https://contoso.vault.azure.net/secrets/vault",
        "s3://bucket/prefix",
        "ray://head:10001",
        "memory:",
        "local",
        "file",
        "",
    ],
)
def test_a_place_that_holds_no_secret_is_shown_whole(place: str) -> None:
    assert without_secrets(place) == place


@given(password=st.text("S/@?#:;%[] ", max_size=12), value=st.text("S/@?#=:;%[] ", max_size=12))
def test_no_character_of_a_password_or_of_a_query_is_shown(password: str, value: str) -> None:
    for url in (f"postgresql://u:{password}@host/db", f"az://c/p?sig={value}", f"s3://{password}@b/p?sig={value}&x=S"):
        shown = without_secrets(url)
        assert HIDDEN in shown
        assert "S" not in shown
