"""Signing in through MSAL to the simulated Entra ID, with every kind of credential and against every refusal."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from collectors.signin import SignIn
from crypto.credential import AppCertificate, AppSecret, Payload, ServiceAccount
from domain.errors import ServiceUnavailable, SignInFailed
from domain.ids import TenantId
from domain.settings import Cloud
from simulator.population import populate
from simulator.server import Simulator
from simulator.world import Account, App, Fault, SignInState, Tenant, World
from simulator.world import AppSecret as KnownSecret

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Estate:
    """A simulator with one tenant."""

    simulator: Simulator
    tenant: Tenant

    @property
    def cloud(self) -> Cloud:
        url = self.simulator.url
        return Cloud(
            login=url, graph=url, exchange=url, compliance=url, activity=url, ca_bundle=str(self.simulator.ca_file)
        )


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(World()) as running:
        yield running


@pytest.fixture
def estate(simulator: Simulator) -> Estate:
    seed = secrets.randbelow(1 << 30)
    tenant = populate(seed=seed, name=f"Test {seed}", users=5, now=NOW)
    simulator.world.tenants[tenant.id] = tenant
    return Estate(simulator, tenant)


def certificate_pair() -> tuple[x509.Certificate, AppCertificate]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "collector")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=90))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return certificate, AppCertificate(
        client_id=guid(), certificate_pem=certificate.public_bytes(Encoding.PEM).decode(), private_key_pem=private
    )


def guid() -> str:
    raw = secrets.token_hex(16)
    return f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}"


def with_certificate(tenant: Tenant) -> Payload:
    certificate, credential = certificate_pair()
    tenant.apps[credential.client_id] = App(credential.client_id, "collector", certificates=[certificate])
    return credential


def with_secret(tenant: Tenant) -> AppSecret:
    credential = AppSecret(client_id=guid(), secret=secrets.token_urlsafe(24))
    known = KnownSecret(credential.secret, NOW + timedelta(days=30))
    tenant.apps[credential.client_id] = App(credential.client_id, "collector", secrets=[known])
    return credential


def with_account(tenant: Tenant, state: SignInState = SignInState.OK) -> ServiceAccount:
    credential = ServiceAccount(username=f"svc@{tenant.domain}", password=secrets.token_urlsafe(16))
    tenant.accounts[credential.username] = Account(credential.username, credential.password, state)
    tenant.apps.setdefault(credential.client_id, App(credential.client_id, "Azure PowerShell", public=True))
    return credential


@pytest.mark.parametrize("make", [with_certificate, with_secret, with_account])
def test_every_kind_of_credential_signs_in_to_both_services(
    estate: Estate, make: Callable[[Tenant], Payload], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    signin = SignIn(estate.cloud, TenantId(estate.tenant.id), make(estate.tenant))

    graph, exchange = signin.token("graph"), signin.token("exchange")

    assert signin.token("graph") is graph
    assert signin.token("graph", fresh=True) is not graph
    assert graph.value != exchange.value
    assert graph.expires_at > datetime.now(UTC) + timedelta(minutes=30)
    assert graph.value.text() not in repr(graph)


@pytest.mark.parametrize(
    ("state", "code", "category"),
    [
        (SignInState.MFA_REQUIRED, 50076, "policy"),
        (SignInState.MFA_ENROLMENT, 50079, "policy"),
        (SignInState.CONDITIONAL_ACCESS, 53003, "policy"),
        (SignInState.EXTERNAL_CHALLENGE, 50158, "policy"),
        (SignInState.LOCKED, 50053, "locked"),
        (SignInState.DISABLED, 50057, "permanent-credential"),
        (SignInState.PASSWORD_EXPIRED, 50055, "permanent-credential"),
    ],
)
def test_a_refused_account_says_why_and_is_not_tried_again(
    estate: Estate, state: SignInState, code: int, category: str
) -> None:
    signin = SignIn(estate.cloud, TenantId(estate.tenant.id), with_account(estate.tenant, state))

    with pytest.raises(SignInFailed) as refused:
        signin.token("graph")
    asked = len(estate.simulator.world.requests)
    with pytest.raises(SignInFailed):
        signin.token("graph")

    assert refused.value.args[:2] == (code, category)
    assert refused.value.__context__ is None
    assert len(estate.simulator.world.requests) == asked


def refused_by(estate: Estate, credential: Payload, tenant: str | None = None) -> tuple[int, str]:
    with pytest.raises(SignInFailed) as refused:
        SignIn(estate.cloud, TenantId(tenant or estate.tenant.id), credential).token("graph")
    return refused.value.args[0], refused.value.args[1]


def test_wrong_and_expired_and_unknown_credentials_are_told_apart(estate: Estate) -> None:
    tenant, secret, account = estate.tenant, with_secret(estate.tenant), with_account(estate.tenant)
    other = AppSecret(client_id=secret.client_id, secret=secrets.token_urlsafe(24))
    wrong = ServiceAccount(username=account.username, password=secrets.token_urlsafe(16))
    stranger = AppSecret(client_id=guid(), secret=secrets.token_urlsafe(24))
    assert refused_by(estate, other) == (7000215, "permanent-credential")
    assert refused_by(estate, wrong) == (50126, "permanent-credential")
    assert refused_by(estate, stranger) == (700016, "permanent-credential")
    assert refused_by(estate, secret, guid()) == (90002, "tenant-gone")
    _, unregistered = certificate_pair()
    tenant.apps[unregistered.client_id] = App(unregistered.client_id, "collector")
    assert refused_by(estate, unregistered) == (700027, "permanent-credential")
    tenant.apps[secret.client_id].secrets[:] = [KnownSecret(secret.secret, NOW - timedelta(days=1))]
    assert refused_by(estate, secret) == (7000222, "permanent-credential")
    tenant.apps[secret.client_id].consented.clear()
    tenant.apps[secret.client_id].secrets[:] = [KnownSecret(secret.secret, NOW + timedelta(days=1))]
    assert refused_by(estate, secret)[1] == "consent"


@pytest.mark.parametrize("code", [28000, 50194, 50196, 900144])
def test_a_question_that_is_refused_as_it_stands_is_asked_once(estate: Estate, code: int) -> None:
    signin = SignIn(estate.cloud, TenantId(estate.tenant.id), with_secret(estate.tenant))
    estate.simulator.world.faults[(estate.tenant.id, "token")] = [Fault("aadsts", None, 0, {"code": code})]

    for _ in range(2):
        with pytest.raises(SignInFailed) as refused:
            signin.token("graph")

    assert refused.value.args[0] == code
    asked = [(tenant, route) for tenant, route, _, _ in estate.simulator.world.requests]
    assert asked.count((estate.tenant.id, "token")) == 1


def test_a_login_service_that_is_down_is_no_refusal(estate: Estate) -> None:
    signin = SignIn(estate.cloud, TenantId(estate.tenant.id), with_secret(estate.tenant))
    estate.simulator.world.faults[("*", "*")] = [Fault("error", None, 0, {"status": 503})]
    try:
        with pytest.raises(ServiceUnavailable):
            signin.token("graph")
    finally:
        estate.simulator.world.faults.clear()

    assert signin.token("graph").value.text()


def test_a_refusal_that_may_pass_is_told_in_one_sentence(estate: Estate) -> None:
    signin = SignIn(estate.cloud, TenantId(estate.tenant.id), with_secret(estate.tenant))
    estate.simulator.world.faults[(estate.tenant.id, "token")] = [Fault("error", 1, 0, {"status": 400})]

    with pytest.raises(ServiceUnavailable) as told:
        signin.token("graph")

    assert str(told.value) == "login answered 400: The directory is not available for now (AADSTS90033)."
