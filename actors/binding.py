"""What a collector keeps for one activation while it is bound: open sessions, and the runspace pool of its server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from collectors.psrp import RemotePowerShell
from collectors.reader import Request, Response
from collectors.session import Session
from collectors.work import Assignment
from crypto.credential import ServiceAccount, decode
from crypto.secret import Secret
from domain.errors import ActivationLost, EnvelopeRejected, SignInFailed, Unknown
from domain.events import ExchangeServer
from domain.ids import Dataset, TenantId

T = TypeVar("T")
OpenShell: TypeAlias = Callable[[ExchangeServer, str, Secret, str], RemotePowerShell]


@dataclass(eq=False)
class OpenSession:
    """A session after the step that led to `cursor`, with the secret its requests are sent with."""

    session: Session
    secret: Secret
    cursor: str | None
    restarts: int

    def goes_on(self, assignment: Assignment) -> bool:
        return (self.cursor, self.restarts) == (assignment.cursor, assignment.restarts)


@dataclass(eq=False)
class Binding:
    """Of one tenant to one epoch of a run. `used`: when it was last asked, in seconds of the collector's clock.

    Tokens and the account's password are here and nowhere else, until `end`.
    """

    tenant: TenantId
    epoch: int
    used: float
    open_shell: OpenShell = RemotePowerShell
    sessions: dict[Dataset, OpenSession] = field(default_factory=dict)
    _calls: set[asyncio.Future[Any]] = field(default_factory=set)
    _over: bool = False
    _shell: RemotePowerShell | None = None
    _password: Secret | None = None
    _refusal: SignInFailed | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def busy(self) -> bool:
        return bool(self._calls)

    async def perform(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. Raises `ActivationLost` when the binding is ended meanwhile."""
        call = asyncio.ensure_future(work)
        self._calls.add(call)
        try:
            return await call
        except asyncio.CancelledError:
            if self._over:
                raise ActivationLost(self.tenant, self.epoch) from None
            raise
        finally:
            self._calls.discard(call)

    async def ask_server(self, assignment: Assignment, account: Secret, request: Request) -> Response:
        """An answer of the tenant's own Exchange Server, one at a time: a server allows an account few runspaces.

        A refused password is not tried again, whichever dataset asks.
        """
        async with self._turn:
            if self._refusal is not None:
                raise SignInFailed(*self._refusal.args)
            if self._shell is None:
                self._shell = self._opened(assignment, account)
            try:
                return await self._shell.perform(request)
            except SignInFailed as refusal:
                self._refusal = SignInFailed(*refusal.args)
                raise

    def _opened(self, assignment: Assignment, account: Secret) -> RemotePowerShell:
        if assignment.exchange_server is None:
            raise Unknown("Exchange Server of tenant", assignment.tenant, "Declare it with `tenantry tenant change`.")
        found = decode(account)
        if not isinstance(found, ServiceAccount):
            raise EnvelopeRejected("an Exchange Server takes a service account")
        self._password = Secret(found.password)
        return self.open_shell(assignment.exchange_server, found.username, self._password, assignment.cloud.ca_bundle)

    async def end(self) -> None:
        """Cancels what is under way and forgets everything. A cmdlet that runs is waited for, in its thread."""
        self._over = True
        calls = tuple(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        for opened in self.sessions.values():
            opened.secret.close()
        self.sessions.clear()
        shell, self._shell = self._shell, None
        if shell is not None:
            await shell.aclose()
        if self._password is not None:
            self._password.close()
