"""A tenant bound to an activation of one run: what it may append, what it holds in memory, and how it signs in."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from actors.messages import Vault
from actors.patience import Wait, patiently
from actors.standing import explained, rejection
from collectors.signin import AccessToken, Resource, SignIn
from crypto import credential as payloads
from crypto.credential import decode
from crypto.datakey import DataKey, from_secret
from crypto.secret import Secret
from crypto.transit import TransitKey
from domain import credential as credentials
from domain import run as runs
from domain.credential import Credential
from domain.errors import ReleaseRefused, SignInFailed, Unknown, VersionConflict
from domain.events import CredentialEvent, RunEvent
from domain.ids import ENTRA, EXCHANGE_SERVER, RunId, Slot, TenantId, credential_stream, run_stream
from domain.run import Run
from domain.settings import Cloud
from domain.tenant import Tenant
from eventstore.store import EventStore
from eventstore.streams import Held
from vault.messages import Release, ReleaseDataKey, data_key_context, release_context

S = TypeVar("S")
E = TypeVar("E")

SERVER_PURPOSE = "exchange-server"


class Tokens(Protocol):
    """One credential signed in: `collectors.signin.SignIn`, or what stands for it."""

    def token(self, resource: Resource, *, fresh: bool = False) -> AccessToken: ...

    def close(self) -> None: ...


class OpenTokens(Protocol):
    def __call__(
        self, cloud: Cloud, tenant: TenantId, credential: payloads.Payload, *, now: Callable[[], datetime]
    ) -> Tokens: ...


@dataclass(eq=False, kw_only=True)
class Activation:
    """One tenant, one run, one epoch. `name` is what the record calls it. Secrets live here until `close`.

    What was refused once is not tried again: a second attempt brings an account nearer to its lockout.
    """

    store: EventStore
    vault: Vault
    cloud: Cloud
    tenant: Tenant
    run: Held[Run | None, RunEvent]
    name: str
    epoch: int
    clock: Callable[[], datetime]
    wait: Wait = asyncio.sleep
    open_tokens: OpenTokens = SignIn
    _transit: TransitKey = field(default_factory=TransitKey.generate)
    _sign_in: Tokens | None = None
    _released: set[str] = field(default_factory=set)
    _tokens: dict[Resource, Secret] = field(default_factory=dict)
    _refused: dict[str, SignInFailed] = field(default_factory=dict)
    _account: Secret | None = None
    _data_key: DataKey | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def id(self) -> RunId:
        return known_run(self.run.state, "").id

    @property
    def actor(self) -> str:
        return f"tenant-actor:{self.name}"

    def check(self) -> None:
        """Raises `ActivationLost` when the run was cancelled or belongs to a later epoch."""
        self.run.refresh()
        runs.holds(known_run(self.run.state, ""), self.epoch)

    def append(self, held: Held[S, E], decide: Callable[[S], Sequence[E]]) -> None:
        """Appends for this activation; who lost it appends nothing more."""
        while True:
            try:
                held.append(decide, at=self.clock(), actor=self.actor, cause=self.id)
            except VersionConflict:
                self.check()
            else:
                return

    def end(self, decide: Callable[[Run], list[RunEvent]]) -> None:
        self.append(self.run, lambda state: decide(known_run(state, "")))

    async def data_key(self) -> DataKey:
        async with self._lock:
            if self._data_key is None:
                request = ReleaseDataKey(
                    tenant=self.tenant.id,
                    transit_key=self._transit.public,
                    run=self.id,
                    activation=self.name,
                    epoch=self.epoch,
                )
                sealed = await patiently(lambda: self.vault.release_data_key(request), self.wait)
                with self._transit.open(sealed, data_key_context(self.tenant.id, self.id)) as secret:
                    self._data_key = from_secret(secret)
            return self._data_key

    async def token(self, resource: Resource, *, refused: Secret | None = None) -> Secret:
        """An access token, and not `refused`, the one that the service no longer took.

        The credential is released once for each resource, on record before it is used. Raises `SignInFailed`,
        `ReleaseRefused`, or what `patience.SCHEDULES` names when it did not pass.
        """
        async with self._lock:
            if resource not in self._released:
                with await self._release(ENTRA, resource) as secret:
                    payload = decode(secret)
                self._sign_in = self._sign_in or self.open_tokens(self.cloud, self.tenant.id, payload, now=self.clock)
                self._released.add(resource)
            if self._sign_in is None:
                raise AssertionError("a released credential signs in")
            ask = functools.partial(
                self._sign_in.token, resource, fresh=refused is not None and self._tokens.get(resource) is refused
            )
            try:
                token = await patiently(lambda: asyncio.to_thread(ask), self.wait)
            except SignInFailed as refusal:
                self._reject(ENTRA, refusal, resource)
                raise
            if self._tokens.get(resource) is not token.value:
                self._tokens[resource] = token.value
                self._record(ENTRA, lambda state: credentials.verified(state, self.id, resource))
            return token.value

    async def exchange_server_account(self) -> Secret:
        """User name and password for the tenant's own Exchange Server, as an encoded `ServiceAccount`.

        Raises `SignInFailed` after `reject_account`, `ReleaseRefused` or `KeyholderUnavailable`.
        """
        async with self._lock:
            if known := self._refused.get(SERVER_PURPOSE):
                raise SignInFailed(*known.args)
            if self._account is None:
                self._account = await self._release(EXCHANGE_SERVER, SERVER_PURPOSE)
            return self._account

    def accept_account(self) -> None:
        """The Exchange Server took its account."""
        self._record(EXCHANGE_SERVER, lambda state: credentials.verified(state, self.id, SERVER_PURPOSE))

    def reject_account(self, refusal: SignInFailed) -> None:
        """The Exchange Server refused its account."""
        self._reject(EXCHANGE_SERVER, refusal, SERVER_PURPOSE)

    def _reject(self, slot: Slot, refusal: SignInFailed, resource: str) -> None:
        """Recorded once, however many datasets ask."""
        if resource in self._refused:
            return
        self._refused[resource] = SignInFailed(*refusal.args)
        event = rejection(int(refusal.args[0]), str(refusal.args[1]), self.id, resource, self.clock())
        self._record(slot, lambda state: credentials.rejected(state, event))

    async def _release(self, slot: Slot, purpose: str) -> Secret:
        request = Release(
            run=self.id,
            tenant=self.tenant.id,
            slot=slot,
            activation=self.name,
            epoch=self.epoch,
            purpose=purpose,
            transit_key=self._transit.public,
        )
        try:
            sealed = await patiently(lambda: self.vault.release(request), self.wait)
        except ReleaseRefused as refused:
            raise explained(refused, self._credential(slot).state, self.clock(), purpose) from None
        return self._transit.open(sealed, release_context(self.id, self.tenant.id, slot, self.name, self.epoch))

    def _record(self, slot: Slot, decide: Callable[[Credential], list[CredentialEvent]]) -> None:
        self._credential(slot).decide(
            lambda state: decide(state) if state else [], at=self.clock(), actor=self.actor, cause=self.id
        )

    def _credential(self, slot: Slot) -> Held[Credential | None, CredentialEvent]:
        return Held(self.store, credential_stream(self.tenant.id, slot), credentials.evolve, None)

    def close(self) -> None:
        """Forgets the tenant: tokens, data key and credential. Waits for a sign-in that is under way."""
        if self._sign_in:
            self._sign_in.close()
        if self._account:
            self._account.close()
        self._tokens.clear()
        self._sign_in = self._account = self._data_key = None


def activate(
    store: EventStore,
    vault: Vault,
    *,
    cloud: Cloud,
    tenant: Tenant,
    run: RunId,
    name: str,
    clock: Callable[[], datetime],
    wait: Wait = asyncio.sleep,
    open_tokens: OpenTokens = SignIn,
) -> Activation:
    """Takes the run: appends RunStarted or RunResumed with the next epoch. The slower of two gets `VersionConflict`."""
    held: Held[Run | None, RunEvent] = Held(store, run_stream(run), runs.evolve, None)
    held.append(
        lambda state: runs.activate(known_run(state, run), name), at=clock(), actor=f"tenant-actor:{name}", cause=run
    )
    return Activation(
        store=store,
        vault=vault,
        cloud=cloud,
        tenant=tenant,
        run=held,
        name=name,
        epoch=known_run(held.state, run).epoch,
        clock=clock,
        wait=wait,
        open_tokens=open_tokens,
    )


def known_run(state: Run | None, run: str) -> Run:
    if state is None:
        raise Unknown("run", run, "See `tenantry run list`.")
    return state
