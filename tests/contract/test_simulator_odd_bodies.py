"""Whatever a client sends, every simulated service refuses it in its own words and goes on serving."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import httpx
import pytest

from simulator.credentials import register_account
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import EXCHANGE, GRAPH, KEY_VAULT, World

COMMAND = b"/adminapi/beta/TENANT/InvokeCommand"
BODIES = (
    *(b"", b"\xff\xfe", b"null", b"1", b'"x"', b"[]", b"{}", b"[" * 100_000, b'{"requests":' + b"[" * 100_000),
    b'{"requests":[1]}',
    b'{"requests":[{"id":"1","method":"GET","url":"http://[x"}]}',
    b'{"requests":[{"id":"1","method":"GET","url":"\\ud800"}]}',
    b'{"requests":[{"id":"1","method":1,"url":"%s"}]}' % COMMAND,
    b'{"requests":[{"id":"1","headers":[1],"url":"%s"}]}' % COMMAND,
    b'{"requests":[{"id":"1","url":"http://[x%s"}]}' % COMMAND,
    b'{"CmdletInput":{"CmdletName":"\\ud800"}}',
    b'{"CmdletInput":{"CmdletName":"Get-Mailbox","Parameters":{"Filter":1,"ResultSize":{},"Identity":[1]}}}',
    b'{"value":"\\ud800"}',
    b'{"value":"x","contentType":"\\ud800"}',
    b'{"value":"x","attributes":[1],"tags":1}',
    b'{"kty":"RSA","key_size":[1],"key_ops":[[1]]}',
    b'{"kty":"RSA","key_ops":[[1]]}',
    b'{"alg":"RSA-OAEP-256","value":["a"]}',
    b'{"settings":{"\\ud800":1}}',
    b'{"apps":{"a":[1]}}',
    b'{"tenant":[1],"fraction":0}',
    b"grant_type=password&username=%ff",
    b"x" * (5 << 20),
)
PLACES = (
    ("POST", "/v1.0/$batch", GRAPH),
    ("POST", "/adminapi/beta/TENANT/InvokeCommand", EXCHANGE),
    ("POST", "/adminapi/beta/TENANT/$batch", EXCHANGE),
    ("PUT", "/secrets/one?api-version=7.4", KEY_VAULT),
    ("PATCH", "/secrets/one?api-version=7.4", KEY_VAULT),
    ("POST", "/keys/one/create?api-version=7.4", KEY_VAULT),
    ("POST", "/TENANT/oauth2/v2.0/token", ""),
    ("PATCH", "/_simulator/tenants/TENANT", ""),
    ("PUT", "/_simulator/faults", ""),
    ("POST", "/_simulator/change", ""),
    ("POST", "/PowerShell", "basic"),
)


@pytest.fixture(scope="module")
def m365() -> Iterator[Simulator]:
    tenant = populate(seed=7, name="Contoso", users=5, now=datetime.now(UTC), exchange_server=True)
    register_account(tenant, "svc")
    with Simulator(World(tenants={tenant.id: tenant})) as running:
        yield running


def authorization(m365: Simulator, resource: str) -> Mapping[str, str]:
    tenant = next(iter(m365.world.tenants.values()))
    if resource == "basic":
        account = next(iter(tenant.accounts.values()))
        return {"Authorization": f"Basic {b64encode(f'{account.upn}:{account.password}'.encode()).decode()}"}
    token = m365.issuer.issue(tenant.id, next(iter(tenant.apps)), resource, "principal")
    return {"Authorization": f"Bearer {token}"} if resource else {}


@pytest.mark.parametrize(("method", "path", "resource"), PLACES)
def test_no_body_breaks_a_service(m365: Simulator, method: str, path: str, resource: str) -> None:
    tenant = next(iter(m365.world.tenants))
    headers = authorization(m365, resource)
    with httpx.Client(base_url=m365.url, verify=ssl.create_default_context(cafile=str(m365.ca_file))) as client:
        for body in BODIES:
            content = body.replace(b"TENANT", tenant.encode())
            answer = client.request(method, path.replace("TENANT", tenant), headers=headers, content=content)
            faulted = answer.headers.get("content-type", "").startswith("application/soap+xml")
            assert answer.status_code < 500 or faulted, (body[:80], answer.text)
