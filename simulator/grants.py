"""The grants of the token endpoint: what an application or an account must show, and the tokens it gets for it.

learn.microsoft.com/entra/identity-platform: v2-oauth2-client-creds-grant-flow, v2-oauth-ropc.
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from simulator.aadsts import ACCOUNT_STATES, APP_STATES, SignInRefused, encoded
from simulator.assertion import check_assertion
from simulator.resources import APP_ROLES, RESOURCES, USER_SCOPES
from simulator.tokens import Claims, Issuer, TokenRejected
from simulator.world import GRAPH, KEY_VAULT, Account, App, SignInState, Tenant

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
WRONG_PASSWORDS_ALLOWED = 10
LOCKOUT = timedelta(seconds=60)
OPENID_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
SHARED_ENDPOINTS = frozenset({"common", "organizations", "consumers"})
GLOBAL_READER = "f2ef992c-3afb-46b9-b7cf-a126ee74c451"
"""The role template id in the `wids` claim, which Exchange reads."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One token request: the form, the tenant as the path names it, and when."""

    form: Mapping[str, str]
    tenant_name: str
    tenant: Tenant
    host: str
    now: datetime

    def need(self, name: str) -> str:
        """The parameter, or the refusal that says it is missing."""
        if not (value := self.form.get(name, "")):
            raise SignInRefused(900144, {"value": name})
        return value


def asked(form: Mapping[str, str], name: str, tenant: Tenant | None, host: str, now: datetime) -> Ask:
    kind = form.get("grant_type")
    if name in SHARED_ENDPOINTS:
        if kind == "password" and name != "organizations":
            raise SignInRefused(9001023, {})
        if kind == "client_credentials":
            raise SignInRefused(50059, {})
    if tenant is None:
        raise SignInRefused(90002, {"tenant": name})
    return Ask(form, name, tenant, host, now)


def grant(issuer: Issuer, ask: Ask) -> dict[str, Any]:
    grants = {"client_credentials": _client_credentials, "password": _password, "refresh_token": _refresh}
    kind = ask.need("grant_type")
    if kind not in grants:
        raise SignInRefused(70003, {"value": kind})
    return grants[kind](issuer, ask)


def _client_credentials(issuer: Issuer, ask: Ask) -> dict[str, Any]:
    scopes = ask.need("scope").split()
    if len(scopes) != 1:
        raise SignInRefused(28000, {"value": " ".join(scopes)})
    if not scopes[0].endswith("/.default"):
        raise SignInRefused(1002012, {"value": scopes[0]})
    app = _app(ask)
    resource = _resource(issuer, ask, scopes[0].removesuffix("/.default"))
    _check_client(ask, app)
    if app.state is not SignInState.OK:
        raise SignInRefused(APP_STATES.get(app.state, 53003), {"app": app.name})
    _check_consent(ask, app, resource)
    roles = app.roles.get(resource, permissions(APP_ROLES, app, resource))
    subject = str(uuid.uuid5(uuid.UUID(ask.tenant.id), app.client_id))
    extra = {"idtyp": "app", "app_displayname": app.name, "wids": [GLOBAL_READER]}
    return _answer(issuer, ask, app, resource=resource, subject=subject, roles=roles, extra=extra)


def _password(issuer: Issuer, ask: Ask) -> dict[str, Any]:
    app = _app(ask)
    if not app.public:
        _check_client(ask, app)
    user, password = ask.need("username"), ask.need("password")
    resource = _resource(issuer, ask, _single_resource(ask.need("scope")))
    account = _account(ask.tenant, user)
    texts = {"user": user, "resource": resource, "app": app.name}
    _check_password(ask, account, password, texts)
    if account.state is not SignInState.OK:
        raise SignInRefused(ACCOUNT_STATES[account.state], texts)
    _check_consent(ask, app, resource)
    return _user_answer(issuer, ask, app, resource, account)


def _refresh(issuer: Issuer, ask: Ask) -> dict[str, Any]:
    app = _app(ask)
    try:
        claims: Claims = issuer.verify(f"Bearer {ask.need('refresh_token')}", _refresh_audience(issuer))
    except TokenRejected as error:
        raise SignInRefused(700082, {}) from error
    account = next((a for a in ask.tenant.accounts.values() if _object_id(ask.tenant, a) == claims.subject), None)
    if claims.app_id != app.client_id or claims.tenant_id != ask.tenant.id or account is None:
        raise SignInRefused(700082, {})
    resource = _resource(issuer, ask, _single_resource(ask.need("scope")))
    if account.state is not SignInState.OK:
        raise SignInRefused(ACCOUNT_STATES[account.state], {"user": account.upn, "resource": resource})
    _check_consent(ask, app, resource)
    return _user_answer(issuer, ask, app, resource, account)


def permissions(table: Mapping[str, tuple[str, ...]], app: App, resource: str) -> tuple[str, ...]:
    """What a token grants; one for the origin itself, which is no resource of Microsoft's, grants what all have."""
    if resource in RESOURCES.values():
        return table.get(resource, ())
    return tuple(name for one in sorted(app.consented) for name in app.roles.get(one, table.get(one, ())))


def _app(ask: Ask) -> App:
    client_id = ask.need("client_id")
    if (app := ask.tenant.apps.get(client_id)) is None:
        raise SignInRefused(700016, {"client": client_id})
    return app


def _account(tenant: Tenant, user: str) -> Account:
    account = next((a for a in tenant.accounts.values() if a.upn.lower() == user.strip().lower()), None)
    if account is None:
        raise SignInRefused(50034, {"user": user})
    return account


def _check_client(ask: Ask, app: App) -> None:
    if assertion := ask.form.get("client_assertion"):
        if ask.form.get("client_assertion_type") != ASSERTION_TYPE:
            raise SignInRefused(900144, {"value": "client_assertion_type"})
        names = (ask.tenant_name, ask.tenant.id, ask.tenant.domain, ask.tenant.initial_domain)
        check_assertion(assertion, app, names, ask.now)
        return
    if not (given := ask.form.get("client_secret")):
        raise SignInRefused(7000218, {})
    matching = [s for s in app.secrets if hmac.compare_digest(s.value.encode(), given.encode())]
    if not matching:
        raise SignInRefused(7000215, {})
    if all(secret.expires <= ask.now for secret in matching):
        raise SignInRefused(7000222, {})


def _check_password(ask: Ask, account: Account, password: str, texts: dict[str, str]) -> None:
    """Ten wrong passwords lock the account for a minute, during which the right one fails as well."""
    if account.locked_until and account.locked_until > ask.now:
        raise SignInRefused(50053, texts)
    if hmac.compare_digest(account.password.encode(), password.encode()):
        account.bad_passwords, account.locked_until = 0, None
        return
    account.bad_passwords += 1
    if account.bad_passwords >= WRONG_PASSWORDS_ALLOWED:
        account.bad_passwords, account.locked_until = 0, ask.now + LOCKOUT
    raise SignInRefused(50126, texts)


def _check_consent(ask: Ask, app: App, resource: str) -> None:
    """Key Vault decides by its own roles, and a token for the origin itself needs any consent at all."""
    allowed = resource == KEY_VAULT or resource in app.consented or (resource not in APP_ROLES and app.consented)
    if not allowed:
        raise SignInRefused(65001, {"app": app.name, "resource": resource})


def _resource(issuer: Issuer, ask: Ask, name: str) -> str:
    """The resource's one name; its aliases are its application id and its name in other clouds."""
    plain = name.rstrip("/").lower()
    if plain in (issuer.origin, ask.host):
        return issuer.origin
    if (resource := RESOURCES.get(plain)) is None or resource in ask.tenant.settings.get("missing_resources", ()):
        raise SignInRefused(500011, {"resource": name})
    return resource


def _single_resource(scope: str) -> str:
    """The resource of scopes such as `https://graph.microsoft.com/User.Read openid`; Graph when none is named."""
    named = [part for part in scope.split() if part not in OPENID_SCOPES]
    resources = {part.rpartition("/")[0] if "://" in part else GRAPH for part in named}
    if len(resources) > 1:
        raise SignInRefused(28000, {"value": scope})
    return resources.pop() if resources else GRAPH


def _user_answer(issuer: Issuer, ask: Ask, app: App, resource: str, account: Account) -> dict[str, Any]:
    subject = _object_id(ask.tenant, account)
    scopes = permissions(USER_SCOPES, app, resource)
    extra = {"scp": " ".join(scopes), "upn": account.upn, "unique_name": account.upn, "wids": [GLOBAL_READER]}
    answer = _answer(issuer, ask, app, resource=resource, subject=subject, roles=(), extra=extra)
    asked = ask.form.get("scope", "").split()
    answer["scope"] = " ".join(f"{resource}/{scope}" for scope in scopes)
    if "openid" in asked:
        moment = int(ask.now.timestamp())
        answer["id_token"] = issuer.issue(
            ask.tenant.id,
            app.client_id,
            app.client_id,
            subject,
            extra={
                "iss": f"{ask.host}/{ask.tenant.id}/v2.0",
                "preferred_username": account.upn,
                "name": account.upn.partition("@")[0],
                "exp": moment + 3600,
                "ver": "2.0",
            },
        )
    if "offline_access" in asked:
        audience = _refresh_audience(issuer)
        answer["refresh_token"] = issuer.issue(
            ask.tenant.id, app.client_id, audience, subject, lifetime=timedelta(days=90)
        )
    if ask.form.get("client_info") == "1":
        answer["client_info"] = encoded({"uid": subject, "utid": ask.tenant.id})
    return answer


def _answer(
    issuer: Issuer, ask: Ask, app: App, *, resource: str, subject: str, roles: tuple[str, ...], extra: dict[str, Any]
) -> dict[str, Any]:
    seconds = int(ask.tenant.settings.get("token_seconds", 3599))
    lifetime = timedelta(seconds=seconds)
    token = issuer.issue(ask.tenant.id, app.client_id, resource, subject, roles, lifetime, extra=extra)
    return {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token}


def _refresh_audience(issuer: Issuer) -> str:
    return f"{issuer.origin}/refresh"


def _object_id(tenant: Tenant, account: Account) -> str:
    return str(uuid.uuid5(uuid.UUID(tenant.id), account.upn.lower()))
