"""Entra ID as clients that are not ours see it: MSAL, azure-identity, and plain HTTP for what they never send."""

from __future__ import annotations

import base64
import json
import ssl
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import msal
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CertificateCredential, ClientSecretCredential
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.x509 import load_pem_x509_certificate

from simulator.aadsts import REFUSALS
from simulator.credentials import register_account, register_certificate_app, register_secret_app
from simulator.grants import WRONG_PASSWORDS_ALLOWED
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import EXCHANGE, GRAPH, AppSecret, Fault, SignInState, Tenant, World

SCOPE = [f"{GRAPH}/.default"]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    world = World()
    with Simulator(world) as running:
        yield running


@pytest.fixture
def tenant(simulator: Simulator) -> Iterator[Tenant]:
    made = populate(seed=uuid.uuid4().int, name=f"T{uuid.uuid4().hex}", users=3, now=datetime.now(UTC))
    simulator.world.tenants[made.id] = made
    yield made
    del simulator.world.tenants[made.id]
    simulator.world.faults.clear()


@pytest.fixture(scope="module")
def http(simulator: Simulator) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=simulator.url, verify=ssl.create_default_context(cafile=str(simulator.ca_file))
    ) as client:
        yield client


class RealHosts(requests.Session):
    """Keeps Microsoft's host names in every address and sends the requests to the simulator instead."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__()
        self.verify = str(simulator.ca_file)
        self.trust_env = False
        self.there = simulator.url

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        parts = urlsplit(str(url))
        options["headers"] = {**(options.get("headers") or {}), "Host": parts.netloc}
        query = f"?{parts.query}" if parts.query else ""
        return super().request(method, f"{self.there}{parts.path}{query}", *args, **options)


def confidential(simulator: Simulator, tenant: Tenant, client_id: str, credential: Any) -> Any:
    return msal.ConfidentialClientApplication(
        client_id,
        authority=f"https://login.microsoftonline.com/{tenant.id}",
        client_credential=credential,
        http_client=RealHosts(simulator),
    )


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def ask(http: httpx.Client, tenant: str, **form: str) -> httpx.Response:
    return http.post(f"/{tenant}/oauth2/v2.0/token", data=form)


def test_msal_signs_in_with_a_client_secret_and_real_host_names(simulator: Simulator, tenant: Tenant) -> None:
    app, secret = register_secret_app(tenant, "reports", datetime.now(UTC) + timedelta(days=1))
    result = confidential(simulator, tenant, app.client_id, secret).acquire_token_for_client(SCOPE)
    assert result["expires_in"] == 3599
    claims = simulator.issuer.verify(f"Bearer {result['access_token']}", GRAPH)
    assert (claims.tenant_id, claims.app_id) == (tenant.id, app.client_id)
    assert "Reports.Read.All" in claims_of(result["access_token"])["roles"]


def test_msal_signs_in_with_a_certificate_in_both_of_its_formats(simulator: Simulator, tenant: Tenant) -> None:
    app, pem = register_certificate_app(tenant, "reports", datetime.now(UTC))
    certificate = load_pem_x509_certificate(pem)
    key = pem[: pem.index(b"-----BEGIN CERTIFICATE")].decode()
    public = pem[pem.index(b"-----BEGIN CERTIFICATE") :].decode()
    newer = {"private_key": key, "public_certificate": public}
    older = {"private_key": key, "thumbprint": certificate.fingerprint(hashes.SHA1()).hex()}  # noqa: S303 - MSAL wants it
    for credential in (newer, older):
        result = confidential(simulator, tenant, app.client_id, credential).acquire_token_for_client(SCOPE)
        assert "access_token" in result, result


def test_azure_identity_signs_in_on_the_loopback_address(simulator: Simulator, tenant: Tenant) -> None:
    now = datetime.now(UTC)
    cert_app, pem = register_certificate_app(tenant, "certified", now)
    secret_app, secret = register_secret_app(tenant, "secretive", now + timedelta(days=1))
    options: dict[str, Any] = {
        "authority": simulator.url,
        "disable_instance_discovery": True,
        "connection_verify": str(simulator.ca_file),
    }
    with (
        CertificateCredential(tenant.id, cert_app.client_id, certificate_data=pem, **options) as certified,
        ClientSecretCredential(tenant.id, secret_app.client_id, secret, **options) as secretive,
    ):
        for credential in (certified, secretive):
            token = credential.get_token(f"{EXCHANGE}/.default")
            assert claims_of(token.token)["roles"] == ["Exchange.ManageAsApp"]


def test_azure_identity_reports_a_wrong_secret(simulator: Simulator, tenant: Tenant) -> None:
    app, _ = register_secret_app(tenant, "reports", datetime.now(UTC) + timedelta(days=1))
    with (
        ClientSecretCredential(
            tenant.id,
            app.client_id,
            uuid.uuid4().hex,
            authority=simulator.url,
            disable_instance_discovery=True,
            connection_verify=str(simulator.ca_file),
        ) as credential,
        pytest.raises(ClientAuthenticationError, match="AADSTS7000215"),
    ):
        credential.get_token(*SCOPE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MSAL warns that this grant is on its way out
def test_msal_signs_in_a_service_account_and_renews_its_token_silently(simulator: Simulator, tenant: Tenant) -> None:
    app, account = register_account(tenant, "svc-reports")
    client = msal.PublicClientApplication(
        app.client_id,
        authority=f"https://login.microsoftonline.com/{tenant.domain}",
        http_client=RealHosts(simulator),
    )
    result = client.acquire_token_by_username_password(account.upn, account.password, SCOPE)
    assert result["id_token_claims"]["preferred_username"] == account.upn
    assert claims_of(result["access_token"])["upn"] == account.upn
    renewed = client.acquire_token_silent(SCOPE, client.get_accounts()[0], force_refresh=True)
    assert renewed["access_token"] != result["access_token"]


def test_a_confidential_client_needs_its_secret_besides_the_password(
    simulator: Simulator, tenant: Tenant, http: httpx.Client
) -> None:
    _, account = register_account(tenant, "svc")
    app, secret = register_secret_app(tenant, "reports", datetime.now(UTC) + timedelta(days=1))
    form = {
        "grant_type": "password",
        "client_id": app.client_id,
        "username": account.upn,
        "password": account.password,
        "scope": SCOPE[0],
    }
    assert ask(http, tenant.id, **form).json()["error_codes"] == [7000218]
    assert ask(http, tenant.id, **form, client_secret=secret).status_code == 200
    assert ask(http, "common", **form, client_secret=secret).json()["error_codes"] == [9001023]
    assert ask(http, "organizations", **form, client_secret=secret).status_code == 200


def test_a_client_may_show_its_secret_by_http_basic(tenant: Tenant, http: httpx.Client) -> None:
    app, secret = register_secret_app(tenant, "reports", datetime.now(UTC) + timedelta(days=1))
    answer = http.post(
        f"/{tenant.id}/oauth2/v2.0/token",
        data={"grant_type": "client_credentials", "scope": SCOPE[0]},
        auth=(app.client_id, secret),
    )
    assert answer.status_code == 200
    assert "refresh_token" not in answer.json()


def test_ten_wrong_passwords_lock_the_account_even_for_the_right_one(tenant: Tenant, http: httpx.Client) -> None:
    app, account = register_account(tenant, "svc")
    form = {"grant_type": "password", "client_id": app.client_id, "username": account.upn, "scope": SCOPE[0]}
    for _ in range(WRONG_PASSWORDS_ALLOWED):
        assert ask(http, tenant.id, **form, password="wrong").json()["error_codes"] == [50126]
    locked = ask(http, tenant.id, **form, password=account.password)
    assert (locked.status_code, locked.json()["error_codes"]) == (400, [50053])
    account.locked_until = datetime.now(UTC)
    assert ask(http, tenant.id, **form, password=account.password).status_code == 200


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (SignInState.MFA_REQUIRED, (50076, "invalid_grant", "basic_action")),
        (SignInState.MFA_ENROLMENT, (50079, "invalid_grant", "basic_action")),
        (SignInState.CONDITIONAL_ACCESS, (53003, "interaction_required", "message_only")),
        (SignInState.EXTERNAL_CHALLENGE, (50158, "invalid_grant", "basic_action")),
        (SignInState.LOCKED, (50053, "invalid_grant", None)),
        (SignInState.DISABLED, (50057, "invalid_grant", None)),
        (SignInState.PASSWORD_EXPIRED, (50055, "invalid_grant", "user_password_expired")),
    ],
)
def test_the_state_of_an_account_decides_how_its_right_password_is_refused(
    tenant: Tenant, http: httpx.Client, state: SignInState, wanted: tuple[int, str, str | None]
) -> None:
    app, account = register_account(tenant, "svc", state)
    answer = ask(
        http,
        tenant.id,
        grant_type="password",
        client_id=app.client_id,
        username=account.upn,
        password=account.password,
        scope=SCOPE[0],
    )
    assert answer.status_code == 400
    body = answer.json()
    assert (body["error_codes"][0], body["error"], body.get("suberror")) == wanted


def test_each_way_an_application_can_be_refused_has_its_own_code(tenant: Tenant, http: httpx.Client) -> None:
    now = datetime.now(UTC)
    app, secret = register_secret_app(tenant, "reports", now + timedelta(days=1))
    app.secrets.append(AppSecret(uuid.uuid4().hex, now - timedelta(days=1)))
    good = {"grant_type": "client_credentials", "client_id": app.client_id, "client_secret": secret, "scope": SCOPE[0]}
    expected = [
        ({}, tenant.id, 200, None),
        ({"client_secret": "wrong"}, tenant.id, 401, 7000215),
        ({"client_secret": app.secrets[1].value}, tenant.id, 401, 7000222),
        ({"client_id": str(uuid.uuid4())}, tenant.id, 400, 700016),
        ({"scope": "https://nothing.example/.default"}, tenant.id, 400, 500011),
        ({"scope": f"{GRAPH}/User.Read"}, tenant.id, 400, 1002012),
        ({"scope": f"{GRAPH}/.default {EXCHANGE}/.default"}, tenant.id, 400, 28000),
        ({"grant_type": "magic"}, tenant.id, 400, 70003),
        ({}, str(uuid.uuid4()), 400, 90002),
        ({}, "common", 400, 50059),
    ]
    for change, name, status, code in expected:
        answer = ask(http, name, **{**good, **change})
        assert answer.status_code == status, answer.text
        assert answer.json().get("error_codes") == (None if code is None else [code])
    app.consented.discard(GRAPH)
    assert ask(http, tenant.id, **good).json()["suberror"] == "consent_required"
    assert ask(http, tenant.id, **{**good, "scope": f"{EXCHANGE}/.default"}).status_code == 200
    app.state = SignInState.CONDITIONAL_ACCESS
    assert ask(http, tenant.id, **{**good, "scope": f"{EXCHANGE}/.default"}).json()["error_codes"] == [53003]


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_any_error_of_the_table_can_be_switched_on(
    simulator: Simulator, tenant: Tenant, http: httpx.Client, code: int
) -> None:
    simulator.world.faults[tenant.id, "token"] = [Fault("aadsts", options={"code": code})]
    correlation = str(uuid.uuid4())
    answer = http.post(
        f"/{tenant.id}/oauth2/v2.0/token",
        data={"grant_type": "client_credentials", "client_id": "x"},
        headers={"client-request-id": correlation},
    )
    body = answer.json()
    assert (answer.status_code, body["error"]) == REFUSALS[code][:2]
    lines = body["error_description"].split("\r\n")
    assert lines[0].startswith(f"AADSTS{code}: ")
    assert [line.partition(": ")[0] for line in lines[1:]] == ["Trace ID", "Correlation ID", "Timestamp"]
    assert body["correlation_id"] == correlation
    assert body["error_uri"].endswith(f"code={code}")


def test_a_throttled_sign_in_names_the_time_to_wait(simulator: Simulator, tenant: Tenant, http: httpx.Client) -> None:
    simulator.world.faults[tenant.id, "token"] = [Fault("throttle", options={"retry_after": 7})]
    answer = ask(http, tenant.id, grant_type="client_credentials")
    assert (answer.status_code, answer.headers["Retry-After"], answer.json()["error_codes"]) == (429, "7", [90055])


def test_an_unknown_tenant_has_no_openid_configuration(http: httpx.Client) -> None:
    answer = http.get(f"/{uuid.uuid4()}/v2.0/.well-known/openid-configuration")
    assert (answer.status_code, answer.json()["error_codes"]) == (400, [90002])


def test_the_openid_configuration_has_every_member_and_may_be_kept_for_a_day(
    tenant: Tenant, http: httpx.Client
) -> None:
    answer = http.get(f"/{tenant.domain}/v2.0/.well-known/openid-configuration")
    wanted = {
        "token_endpoint", "token_endpoint_auth_methods_supported", "jwks_uri", "response_modes_supported",
        "subject_types_supported", "id_token_signing_alg_values_supported", "issuer", "authorization_endpoint",
        "device_authorization_endpoint", "end_session_endpoint", "claims_supported", "kerberos_endpoint",
        "tenant_region_scope", "cloud_instance_name", "cloud_graph_host_name", "msgraph_host", "rbac_url",
    }  # fmt: skip
    assert wanted <= answer.json().keys()
    assert answer.headers["Cache-Control"] == "max-age=86400, private"
    assert answer.json()["issuer"].endswith(f"/{tenant.id}/v2.0")


class TestTheSignatureOfAnAssertionIsChecked:
    def form(self, app_id: str, assertion: str) -> dict[str, str]:
        return {
            "grant_type": "client_credentials",
            "client_id": app_id,
            "scope": SCOPE[0],
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": assertion,
        }

    def signed(self, tenant: Tenant, app_id: str, pem: bytes, **changes: Any) -> str:
        certificate, key = load_pem_x509_certificate(pem), serialization.load_pem_private_key(pem, None)
        thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).decode()
        header = {"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint, **changes.pop("header", {})}
        audience = f"https://login.microsoftonline.com/{tenant.id}/oauth2/v2.0/token"
        claims = {"aud": audience, "iss": app_id, "sub": app_id, "jti": "1", "exp": time.time() + 600.5, **changes}
        text = ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)
        )
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        signature = key.sign(text.encode(), pss, hashes.SHA256())  # type: ignore[union-attr,call-arg,arg-type]
        return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    def test_one_without_nbf_with_float_times_and_padding_may_be_used_again(
        self, tenant: Tenant, http: httpx.Client
    ) -> None:
        app, pem = register_certificate_app(tenant, "reports", datetime.now(UTC))
        form = self.form(app.client_id, self.signed(tenant, app.client_id, pem))
        assert [ask(http, tenant.id, **form).status_code for _ in range(2)] == [200, 200]

    def test_anything_wrong_about_one_is_refused_by_its_code(self, tenant: Tenant, http: httpx.Client) -> None:
        app, pem = register_certificate_app(tenant, "reports", datetime.now(UTC))
        _, other = register_certificate_app(tenant, "other", datetime.now(UTC))
        good = self.signed(tenant, app.client_id, pem)
        signature = good.rpartition(".")[2]
        forged = good.removesuffix(signature) + signature[:-8] + ("AAAAAAAA" if signature[-8:] != "A" * 8 else "B" * 8)
        refused = {
            self.signed(tenant, app.client_id, other): 700027,
            forged: 700027,
            self.signed(tenant, app.client_id, pem, exp=time.time() - 1000): 700024,
            self.signed(tenant, app.client_id, pem, nbf=time.time() + 1000): 700024,
            self.signed(tenant, app.client_id, pem, exp="soon"): 700024,
            self.signed(tenant, app.client_id, pem, aud="https://login.microsoftonline.com/other"): 700023,
            self.signed(tenant, app.client_id, pem, sub="somebody"): 700021,
            self.signed(tenant, app.client_id, pem, header={"alg": "ES256"}): 700027,
            self.signed(tenant, app.client_id, pem, header={"alg": "none"}): 700027,
            "a.b": 50027,
            "###.###.###": 50027,
        }
        for assertion, code in refused.items():
            answer = ask(http, tenant.id, **self.form(app.client_id, assertion))
            assert (answer.status_code, answer.json()["error_codes"]) == (401, [code])

    def test_an_elliptic_key_is_refused(self, simulator: Simulator, tenant: Tenant) -> None:
        app, _ = register_certificate_app(tenant, "reports", datetime.now(UTC))
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        header = {"alg": "ES256", "x5t#S256": "x"}
        assertion = jwt.encode({"sub": app.client_id}, key, "ES256", header)
        client = msal.ConfidentialClientApplication(
            app.client_id,
            authority=f"https://login.microsoftonline.com/{tenant.id}",
            client_credential={"client_assertion": lambda: assertion},
            http_client=RealHosts(simulator),
        )
        result = client.acquire_token_for_client(SCOPE)
        assert "Unsupported asymmetric signing algorithm" in result["error_description"]


def test_admin_consent_redirects_back_and_lets_the_application_in(tenant: Tenant, http: httpx.Client) -> None:
    app, secret = register_secret_app(tenant, "reports", datetime.now(UTC) + timedelta(days=1))
    app.consented.clear()
    form = {"grant_type": "client_credentials", "client_id": app.client_id, "client_secret": secret, "scope": SCOPE[0]}
    assert ask(http, tenant.id, **form).json()["error_codes"] == [65001]
    query = {"client_id": app.client_id, "state": "7", "redirect_uri": "https://localhost/done"}
    answer = http.get(f"/{tenant.id}/adminconsent", params=query)
    assert answer.headers["Location"] == f"https://localhost/done?admin_consent=True&tenant={tenant.id}&state=7"
    assert ask(http, tenant.id, **form).status_code == 200


def test_tokens_verify_with_the_published_keys(simulator: Simulator, tenant: Tenant, http: httpx.Client) -> None:
    app, secret = register_secret_app(tenant, "reports", datetime.now(UTC) + timedelta(days=1))
    form = {"grant_type": "client_credentials", "client_id": app.client_id, "client_secret": secret, "scope": SCOPE[0]}
    token = ask(http, tenant.id, **form).json()["access_token"]
    found = http.get(http.get(f"/{tenant.id}/v2.0/.well-known/openid-configuration").json()["jwks_uri"]).json()
    key = jwt.PyJWK(found["keys"][0])
    assert jwt.decode(token, key, algorithms=["RS256"], audience=GRAPH)["tid"] == tenant.id
