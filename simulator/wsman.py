"""The remote PowerShell of an Exchange Server, at `/PowerShell`: WS-Management over HTTPS with Basic authentication.

The user name says which tenant's server is meant: the one that has the account. Settings of a tenant:
`psrp_max_shells` (3 for each user), `psrp_idle_seconds` (900), `psrp_receive_bytes` (what the envelope allows),
`psrp_latency_seconds` (see `simulator.psrp`). Faults of the protocol: `quota` befalls whoever opens a shell,
`shell-lost` whoever uses one, `warning` and `failed` a pipeline whose output is asked for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4
from xml.sax.saxutils import escape

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from simulator import clixml, mailboxes
from simulator.bodies import bounded
from simulator.cmdlets import SERVER
from simulator.faults import answered
from simulator.psrp import FRAGMENT_BYTES, Delivery, Malformed, NoSuchCommand, Shell
from simulator.tokens import Issuer
from simulator.world import Account, SignInState, Tenant, World
from simulator.world import Fault as Misbehaviour
from simulator.wsman_soap import (
    CONFIG,
    MOST_ENVELOPE_BYTES,
    NAMES,
    SHELL,
    Envelope,
    Fault,
    answer,
    decoded,
    fault,
    read,
    seconds,
    stream,
)

RESOURCE = "http://schemas.microsoft.com/powershell/Microsoft.Exchange"
MEDIA_TYPE = "application/soap+xml;charset=UTF-8"
MOST_SHELLS = 5_000
STOP_SIGNALS = ("powershell/signal/ctrl_c", f"{SHELL}/signal/ctrl_c", f"{SHELL}/signal/ctrl_break")

TRUTH: dict[str, Callable[[Tenant], list[dict[str, Any]]]] = {
    "onprem-mailboxes": lambda t: [clixml.plain(mailboxes.mailbox(t, person)) for person in mailboxes.server_people(t)],
    "receive-connectors": lambda t: [clixml.plain(row) for row in SERVER["get-receiveconnector"].subjects(t)],
    "exchange-servers": lambda t: [clixml.plain(row) for row in SERVER["get-exchangeserver"].subjects(t)],
}
"""Every row of each dataset as its properties' CLIXML texts, numbers and lists; GUIDs are strings."""


@dataclass(slots=True)
class Session:
    """A shell that is open, and who opened it. `changed` also guards the shell: one request works on it at a time."""

    id: str
    shell: Shell
    tenant: Tenant
    user: str
    idle_seconds: float | None
    used: float
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    closed: bool = False


@dataclass(slots=True)
class Sessions:
    """The open shells by id. Those left alone longer than their idle time are gone."""

    open: dict[str, Session] = field(default_factory=dict)

    def of_user(self, tenant: Tenant, user: str) -> list[Session]:
        self._forget_idle()
        return [s for s in self.open.values() if s.tenant is tenant and s.user == user]

    def find(self, request: Envelope, tenant: Tenant, user: str) -> Session:
        """The user's session that a request is for; raises Fault."""
        self._forget_idle()
        session = self.open.get((request.shell_id or "").upper())
        if session is None or session.tenant is not tenant or session.user != user:
            raise Fault("no-shell", request.shell_id)
        session.used = time.monotonic()
        return session

    def _forget_idle(self) -> None:
        now = time.monotonic()
        for session in list(self.open.values()):
            limit = float(session.tenant.settings.get("psrp_idle_seconds", 900.0))
            if session.idle_seconds is not None:
                limit = min(limit, session.idle_seconds)
            if now - session.used >= limit:
                session.closed = True
                del self.open[session.id]

    async def close(self, session: Session) -> None:
        self.open.pop(session.id, None)
        session.closed = True
        async with session.changed:
            session.changed.notify_all()


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a signed-in user."""

    sessions: Sessions
    tenant: Tenant
    user: str
    request: Envelope
    misbehaviour: Misbehaviour | None

    async def session(self) -> Session:
        """The session that the request is for, unless it is lost just now; raises Fault."""
        session = self.sessions.find(self.request, self.tenant, self.user)
        if self.misbehaviour is not None and self.misbehaviour.kind == "shell-lost":
            await self.sessions.close(session)
            raise Fault("no-shell", session.id)
        return session


def routes(world: World, issuer: Issuer) -> list[BaseRoute]:
    sessions = Sessions()

    async def powershell(request: Request) -> Response:
        found = signed_in(world, request.headers.get("authorization"))
        if found is None:
            return Response(status_code=401, headers={"WWW-Authenticate": f'Basic realm="{issuer.origin}"'})
        tenant, user = found
        try:
            content = await bounded(request, MOST_ENVELOPE_BYTES)
            if content is None:
                raise Fault("envelope-too-large", MOST_ENVELOPE_BYTES)
            envelope = read(content)
            route = _route(sessions, envelope)
        except Fault as error:
            return _soap(500, fault("", error))

        async def produce(misbehaviour: Misbehaviour | None) -> Response:
            action = ACTIONS.get(envelope.action)
            try:
                if action is None:
                    raise Fault("no-action")
                body = await action(Call(sessions, tenant, user, envelope, misbehaviour))
            except Fault as error:
                return _soap(500, fault(envelope.message_id, error))
            except Malformed as error:
                return _soap(500, fault(envelope.message_id, Fault("malformed", str(error))))
            except NoSuchCommand as error:
                return _soap(500, fault(envelope.message_id, Fault("no-command", str(error))))
            return _soap(200, answer(envelope, body))

        return await answered(world, tenant.id, route, request, produce, _refuse, own=_kinds(envelope))

    paths = ("/PowerShell", "/PowerShell/", "/powershell", "/powershell/", "/powershell-liveid", "/powershell-liveid/")
    return [Route(path, powershell, methods=["POST"]) for path in paths]


def signed_in(world: World, authorization: str | None) -> tuple[Tenant, str] | None:
    """The tenant and lower-case name of the account whose name and password these are."""
    scheme, _, credentials = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    for tenant in world.tenants.values():
        account = _account(tenant, name)
        if account is None:
            continue
        if not hmac.compare_digest(account.password.encode(), password.encode()):
            account.bad_passwords += 1
            return None
        return (tenant, name.lower()) if account.state is SignInState.OK else None
    return None


def _account(tenant: Tenant, name: str) -> Account | None:
    if not tenant.exchange_server:
        return None
    return tenant.accounts.get(name.lower()) or tenant.accounts.get(name)


def _route(sessions: Sessions, envelope: Envelope) -> str:
    """`psrp.` and the cmdlet when a pipeline's output is asked for, else `wsman`."""
    session = sessions.open.get((envelope.shell_id or "").upper())
    command_id = _desired(envelope) if envelope.action == "Receive" else None
    return "wsman" if session is None or command_id is None else f"psrp.{session.shell.cmdlet(_guid(command_id))}"


def _kinds(envelope: Envelope) -> set[str]:
    """The faults of the protocol that can befall a request."""
    if envelope.action == "Create":
        return {"quota"}
    if envelope.shell_id is None:
        return set()
    of_pipeline = envelope.action == "Receive" and _desired(envelope) is not None
    return {"shell-lost", "warning", "failed"} if of_pipeline else {"shell-lost"}


def _soap(status: int, content: bytes) -> Response:
    return Response(content, status, media_type=MEDIA_TYPE)


def _refuse(status: int, headers: dict[str, str]) -> Response:
    return Response(b"The service is unavailable.", status, headers, media_type="text/plain")


def _guid(value: str | None) -> UUID:
    try:
        return UUID(value or "")
    except ValueError as error:
        raise Fault("malformed", f"{value!r} is no identifier") from error


def _desired(envelope: Envelope) -> str | None:
    wanted = envelope.body.find("rsp:Receive/rsp:DesiredStream", NAMES)
    return None if wanted is None else wanted.get("CommandId")


async def create(call: Call) -> str:
    request = call.request
    if request.resource != RESOURCE:
        raise Fault("no-resource")
    asked = request.body.find("rsp:Shell", NAMES)
    creation = None if asked is None else asked.findtext("pwsh:creationXml", None, NAMES)
    if asked is None or creation is None:
        raise Fault("malformed", "there is no creationXml")
    most = int(call.tenant.settings.get("psrp_max_shells", 3))
    held = call.sessions.of_user(call.tenant, call.user)
    if call.misbehaviour is not None or len(held) >= most or len(call.sessions.open) >= MOST_SHELLS:
        raise Fault("quota", most)
    shell_id = (asked.get("ShellId") or str(uuid4())).upper()
    idle = asked.findtext("rsp:IdleTimeOut", "", NAMES)
    session = Session(
        id=shell_id,
        shell=Shell(call.tenant, decoded(creation)),
        tenant=call.tenant,
        user=call.user,
        idle_seconds=seconds(idle, 900.0) if idle else None,
        used=time.monotonic(),
    )
    call.sessions.open[shell_id] = session
    reference = (
        f'<a:ReferenceParameters><w:ResourceURI>{RESOURCE}</w:ResourceURI><w:SelectorSet><w:Selector Name="ShellId">'
        f"{escape(shell_id)}</w:Selector></w:SelectorSet></a:ReferenceParameters>"
    )
    return f"<x:ResourceCreated><a:Address>{escape(RESOURCE)}</a:Address>{reference}</x:ResourceCreated>" + _shown(
        session
    )


def _shown(session: Session) -> str:
    return (
        f"<rsp:Shell><rsp:ShellId>{escape(session.id)}</rsp:ShellId><rsp:ResourceUri>{RESOURCE}</rsp:ResourceUri>"
        f"<rsp:Owner>{escape(session.user)}</rsp:Owner><rsp:ClientIP>127.0.0.1</rsp:ClientIP>"
        "<rsp:InputStreams>stdin pr</rsp:InputStreams><rsp:OutputStreams>stdout</rsp:OutputStreams>"
        "<rsp:State>Connected</rsp:State></rsp:Shell>"
    )


async def get(call: Call) -> str:
    """The service's configuration, or a shell's state."""
    if call.request.resource.endswith("/config"):
        limit = MOST_ENVELOPE_BYTES // 1024
        return f'<cfg:Config xmlns:cfg="{CONFIG}"><cfg:MaxEnvelopeSizekb>{limit}</cfg:MaxEnvelopeSizekb></cfg:Config>'
    return _shown(await call.session())


async def command(call: Call) -> str:
    session = await call.session()
    line = call.request.body.find("rsp:CommandLine", NAMES)
    if line is None:
        raise Fault("malformed", "there is no CommandLine")
    command_id = (line.get("CommandId") or str(uuid4())).upper()
    data = decoded(line.findtext("rsp:Arguments", "", NAMES))
    async with session.changed:
        await run_in_threadpool(session.shell.command, _guid(command_id), data, time.monotonic())
        session.changed.notify_all()
    return f"<rsp:CommandResponse><rsp:CommandId>{escape(command_id)}</rsp:CommandId></rsp:CommandResponse>"


async def send(call: Call) -> str:
    session = await call.session()
    async with session.changed:
        for part in call.request.body.findall("rsp:Send/rsp:Stream", NAMES):
            target = _guid(part.get("CommandId")) if part.get("CommandId") else None
            await run_in_threadpool(session.shell.send, target, decoded(part.text), time.monotonic())
        session.changed.notify_all()
    return "<rsp:SendResponse/>"


async def receive(call: Call) -> str:
    """What the pool or a pipeline has for its client, waited for until the request's OperationTimeout."""
    session = await call.session()
    asked = _desired(call.request)
    command_id = _guid(asked) if asked else None
    room = call.request.room
    if (cap := call.tenant.settings.get("psrp_receive_bytes")) is not None:
        room = min(room, max(int(cap), FRAGMENT_BYTES))
    if room < FRAGMENT_BYTES:
        raise Fault("envelope-too-small")
    _misbehave(call, session, command_id)
    deadline = time.monotonic() + call.request.timeout_seconds
    async with session.changed:
        while True:
            if session.closed:
                raise Fault("no-shell", session.id)
            now = session.used = time.monotonic()
            delivery: Delivery = await run_in_threadpool(session.shell.take, command_id, room, now)
            if delivery.data or delivery.done:
                return stream(delivery.data, asked, delivery.done)
            if now >= deadline:
                raise Fault("timed-out")
            soon = session.shell.wait_seconds(command_id, now)
            await _changed(session, min(deadline - now, soon if soon is not None else deadline - now))


async def _changed(session: Session, longest_seconds: float) -> None:
    """Wait until another request changed the shell, or the time is over."""
    try:
        async with asyncio.timeout(longest_seconds):
            await session.changed.wait()
    except TimeoutError:
        return


def _misbehave(call: Call, session: Session, command_id: UUID | None) -> None:
    if command_id is None or call.misbehaviour is None:
        return
    text = str(call.misbehaviour.options.get("text", "Micro delay applied. Actual delay: 1ms, Enforced: True"))
    if call.misbehaviour.kind == "warning":
        session.shell.warn(command_id, text)
    else:
        session.shell.fail(command_id, text)


async def signal(call: Call) -> str:
    """Stop a pipeline, or forget one that has ended. A pipeline that is gone is no error."""
    session = await call.session()
    asked = call.request.body.find("rsp:Signal", NAMES)
    code = "" if asked is None else (asked.findtext("rsp:Code", "", NAMES) or "")
    command_id = _guid(None if asked is None else asked.get("CommandId"))
    async with session.changed:
        session.shell.stop(command_id)
        if code not in STOP_SIGNALS:
            session.shell.drop(command_id)
        session.changed.notify_all()
    return "<rsp:SignalResponse/>"


async def delete(call: Call) -> str:
    await call.sessions.close(await call.session())
    return ""


ACTIONS: Mapping[str, Callable[[Call], Awaitable[str]]] = {
    "Create": create,
    "Get": get,
    "Command": command,
    "Send": send,
    "Receive": receive,
    "Signal": signal,
    "Delete": delete,
}
