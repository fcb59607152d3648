"""Trying a credential when an operator asks: one sign-in for each service of the tenant's plan, and what it may read.

The credential is released by the keyholder like any other time, on record before it is used; it is opened in this
process and forgotten at the end. A refusal is not tried a second time.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from actors.activation import OpenTokens, Tokens
from actors.findings import PROBES, DatasetFound, Outcome, ResourceFound, Verification, dataset_found
from actors.standing import explained, rejection
from collectors.dataset import Dataset as Definition
from collectors.dataset import Workload
from collectors.permissions import Claims, claims_of, licences_in
from collectors.psrp import RemotePowerShell
from collectors.reader import Request, Response
from collectors.readers import reader_for
from collectors.signin import Resource, SignIn
from collectors.transport import BRIEFLY, HttpTransport
from collectors.work import Assignment, NotPossible, Truncated
from crypto.credential import Payload, ServiceAccount, decode
from crypto.secret import Secret
from crypto.transit import TransitKey
from domain import credential as credentials
from domain.credential import FOR_ALL, Credential
from domain.errors import (
    ConnectionLost,
    EnvelopeRejected,
    ReleaseRefused,
    ServiceUnavailable,
    SignInFailed,
    TenantryError,
    Throttled,
    TokenExpired,
)
from domain.events import CredentialEvent, ExchangeServer
from domain.ids import ENTRA, EXCHANGE_SERVER, Dataset, RunId, Slot, credential_stream
from domain.settings import Cloud
from domain.tenant import Tenant
from eventstore.store import EventStore
from eventstore.streams import Held
from vault.messages import Release, release_context
from vault.policy import VERIFICATION

Perform = Callable[[Request], Awaitable[Response]]

MOST_REQUESTS = 8
NO_ANSWER = (SignInFailed, ConnectionLost, ServiceUnavailable, Throttled)


class _Noted:
    """What one service told that others are judged by."""

    def __init__(self) -> None:
        self.claims: dict[Workload, Claims | None] = {}
        self.licences: tuple[str, ...] | None = None
        self.resources: list[ResourceFound] = []


@dataclass(frozen=True, eq=False, kw_only=True)
class Verifying:
    """What is verified, by whom, and through what. `plan`: the tenant's datasets. `release`: the keyholder's."""

    store: EventStore
    release: Callable[[Release], bytes]
    cloud: Cloud
    tenant: Tenant
    plan: Mapping[Dataset, Definition]
    id: RunId
    operator: str
    clock: Callable[[], datetime]
    open_tokens: OpenTokens = SignIn
    open_shell: Callable[[ExchangeServer, str, Secret, str], RemotePowerShell] = RemotePowerShell

    async def verify(self, slots: Collection[Slot]) -> Verification:
        """Tries the credentials of these slots and records what came out. Raises what the keyholder and the event store
        raise, except a refusal to release, which is a finding."""
        noted = _Noted()
        for slot in slots:
            found = await (self._entra(noted) if slot == ENTRA else self._exchange_server())
            self._record(slot, found)
            noted.resources += found
        return Verification(
            id=self.id,
            tenant=self.tenant.id,
            resources=tuple(noted.resources),
            datasets=self._datasets(noted),
            licences=noted.licences,
        )

    def _datasets(self, noted: _Noted) -> tuple[DatasetFound, ...]:
        """Those of the services that were signed in to."""
        readable = {one.resource: one.readable for one in noted.resources if one.outcome == "verified"}
        return tuple(
            dataset_found(one, noted.claims.get(one.workload), noted.licences, readable=readable[one.workload])
            for one in self.plan.values()
            if one.workload in readable
        )

    async def _entra(self, noted: _Noted) -> list[ResourceFound]:
        wanted = {definition.workload for definition in self.plan.values()}
        resources: list[Resource] = [name for name in ("graph", "exchange") if name in wanted] or ["graph"]
        found: list[ResourceFound] = []
        tokens: Tokens | None = None
        transport = HttpTransport(self.cloud, patience=BRIEFLY)
        try:
            for resource in resources:
                if found and found[-1].category in FOR_ALL:
                    found.append(msgspec.structs.replace(found[-1], resource=resource))
                    continue
                try:
                    payload = self._released(ENTRA, resource)
                    tokens = tokens or self.open_tokens(self.cloud, self.tenant.id, payload, now=self.clock)
                    token = (await asyncio.to_thread(tokens.token, resource)).value
                except (SignInFailed, ReleaseRefused, ConnectionLost, ServiceUnavailable, Throttled) as refusal:
                    found.append(_not_verified(ENTRA, resource, refusal))
                    continue
                found.append(await self._looked_at(resource, token, transport, noted))
        finally:
            await transport.aclose()
            if tokens is not None:
                tokens.close()
        return found

    async def _looked_at(
        self, resource: Resource, token: Secret, transport: HttpTransport, noted: _Noted
    ) -> ResourceFound:
        claims = noted.claims[resource] = claims_of(token.text())
        rows, readable, unreadable = await self._probed(resource, lambda request: transport.perform(request, token))
        if resource == "graph" and readable:
            noted.licences = licences_in(rows)
        return ResourceFound(
            resource=resource,
            slot=ENTRA,
            outcome="verified",
            permissions=claims.permissions if claims else (),
            directory_roles=claims.directory_roles if claims else (),
            readable=readable,
            unreadable=unreadable,
        )

    async def _exchange_server(self) -> list[ResourceFound]:
        server = self.tenant.exchange_server
        if server is None:
            return []
        try:
            payload = self._released(EXCHANGE_SERVER, "exchange-server")
        except ReleaseRefused as refusal:
            return [_not_verified(EXCHANGE_SERVER, "exchange-server", refusal)]
        if not isinstance(payload, ServiceAccount):
            raise EnvelopeRejected("an Exchange Server takes a service account")
        with Secret(payload.password) as password:
            shell = self.open_shell(server, payload.username, password, self.cloud.ca_bundle)
            try:
                _, readable, unreadable = await self._probed("exchange-server", shell.perform, raising=NO_ANSWER)
            except NO_ANSWER as refusal:
                return [_not_verified(EXCHANGE_SERVER, "exchange-server", refusal)]
            finally:
                await shell.aclose()
        return [
            ResourceFound(
                resource="exchange-server",
                slot=EXCHANGE_SERVER,
                outcome="verified",
                readable=readable,
                unreadable=unreadable,
            )
        ]

    async def _probed(
        self, workload: Workload, perform: Perform, raising: tuple[type[TenantryError], ...] = ()
    ) -> tuple[list[bytes], bool | None, str]:
        """Rows of the service's probe, whether they may be read (None when that is not known), and why not."""
        assignment = Assignment(
            tenant=self.tenant.id,
            run=self.id,
            dataset=PROBES[workload].name,
            mode="full",
            cloud=self.cloud,
            exchange_server=self.tenant.exchange_server,
        )
        reader = reader_for(PROBES[workload], assignment)
        rows: list[bytes] = []
        try:
            for _ in range(MOST_REQUESTS):
                request = reader.next_request()
                if request is None:
                    break
                rows += reader.receive(await perform(request))
        except raising:
            raise
        except TokenExpired as error:
            return rows, False, str(error)
        except TenantryError as error:
            return rows, None, str(error)
        match reader.end:
            case NotPossible(detail=detail):
                return rows, False, detail
            case Truncated(detail=detail):
                return rows, None, detail
            case _:
                return rows, True, ""

    def _released(self, slot: Slot, purpose: str) -> Payload:
        transit = TransitKey.generate()
        request = Release(
            run=self.id,
            tenant=self.tenant.id,
            slot=slot,
            activation=VERIFICATION,
            epoch=0,
            purpose=purpose,
            transit_key=transit.public,
            operator=self.operator,
        )
        try:
            sealed = self.release(request)
        except ReleaseRefused as refused:
            raise explained(refused, self._held(slot).state, self.clock(), purpose) from None
        with transit.open(sealed, release_context(self.id, self.tenant.id, slot, VERIFICATION, 0)) as secret:
            return decode(secret)

    def _record(self, slot: Slot, found: Collection[ResourceFound]) -> None:
        """Refusals last: a service that still refuses decides how the credential stands. Once, what holds for all."""
        told: set[str] = set()
        for one in sorted(found, key=lambda one: one.outcome == "refused"):
            if one.outcome in ("verified", "refused") and one.category not in told:
                told |= {one.category} & {*FOR_ALL}
                self._held(slot).decide(
                    functools.partial(self._events, one),
                    at=self.clock(),
                    actor=f"operator:{self.operator}",
                    cause=self.id,
                )

    def _events(self, found: ResourceFound, state: Credential | None) -> list[CredentialEvent]:
        if state is None:
            return []
        if found.outcome == "verified":
            return credentials.confirmed(state, self.id, found.resource)
        event = rejection(found.code, found.category, self.id, found.resource, self.clock())
        return credentials.rejected(state, event)

    def _held(self, slot: Slot) -> Held[Credential | None, CredentialEvent]:
        return Held(self.store, credential_stream(self.tenant.id, slot), credentials.evolve, None)


def _not_verified(slot: Slot, resource: Workload, why: TenantryError) -> ResourceFound:
    if isinstance(why, SignInFailed):
        code, category, sentence, remedy = why.args
        return ResourceFound(
            resource=resource,
            slot=slot,
            outcome="refused",
            code=int(code),
            category=str(category),
            detail=f"{sentence} {remedy}",
        )
    outcome: Outcome = "not-released" if isinstance(why, ReleaseRefused) else "unavailable"
    return ResourceFound(resource=resource, slot=slot, outcome=outcome, detail=str(why))
