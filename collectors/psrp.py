"""Remote PowerShell of an Exchange Server, and the only user of pypsrp: one runspace pool, one cmdlet at a time.

The endpoint runs in no-language mode: a cmdlet with parameters, no script. pypsrp blocks, so it works in threads.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

import msgspec
import requests.exceptions
from pypsrp.complex_objects import ComplexObject, GenericComplexObject, PSInvocationState
from pypsrp.exceptions import AuthenticationError, WinRMError, WinRMTransportError, WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan
from spnego.exceptions import InvalidCredentialError, SpnegoError

from collectors.reader import Request, Response, shortened
from crypto.secret import Secret
from domain.errors import (
    ConnectionLost,
    NotAllowed,
    ProtocolViolation,
    ServiceUnavailable,
    SignInFailed,
    TenantryError,
    Throttled,
    TransientError,
)
from domain.events import ExchangeServer

WORKLOAD = "exchange-server"
CONFIGURATION = "Microsoft.Exchange"
ATTEMPTS = 4
LONGEST_RUN_SECONDS = 1800.0
READ_SECONDS = 30.0
"""Longer than the 20 s after which a server says that it has nothing yet."""
MOST_ROW_BYTES = 256 << 20
MOST_MESSAGES = 100
DEEPEST = 4
QUOTA_SECONDS = 30.0
QUOTA_FAULT = 2150859173
"""ERROR_WSMAN_QUOTA_MAX_SHELLS."""
QUOTA_TEXT = "maximum number of connections"
"""How Exchange words it: `Fail to create a runspace because you have exceeded the maximum number of connections`."""
REMOTING_PROPERTIES = frozenset({"PSComputerName", "RunspaceId", "PSShowComputerName", "PSSourceJobInstanceId"})
"""Added on the way, not part of the object."""
FAILURES: tuple[type[Exception], ...] = (
    WinRMError,
    requests.exceptions.RequestException,
    SpnegoError,
    ParseError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    ArithmeticError,
    struct.error,
    ImportError,
)
"""What pypsrp raises: its own errors, those of requests and spnego below it, and whatever comes of reading an answer
that is not what it takes it for, since it does not look first; and what it needs for Kerberos and does not find."""
REJECTED = (
    0,
    "permanent-credential",
    "The Exchange Server refuses the user name or password.",
    "Seal the right credential with `tenantry credential set --slot exchange-server`.",
)


class Question(msgspec.Struct, frozen=True):
    """The body of a request: see `collectors.exchange.ExchangeServerList`."""

    cmdlet: str
    parameters: dict[str, bool | int | str | list[str]] = {}
    select: list[str] = []


class _Answer(NamedTuple):
    rows: list[bytes]
    warnings: list[str]
    errors: list[str]
    failed: bool


class AskedOnce(WSMan):
    """pypsrp asks for output up to six times when an answer is late, and waits between them. A late answer has taken
    its rows from the server all the same: they would be missing, and nobody would know."""

    def invoke(self, *asked: Any, **options: Any) -> Element:
        return super().invoke(*asked, **options | {"retries_on_read_timeout": 0})


class RemotePowerShell:
    """For one tenant's server and account. The pool is opened when it is first needed and after it was lost."""

    def __init__(
        self,
        server: ExchangeServer,
        username: str,
        password: Secret,
        ca_bundle: str = "",
        *,
        read_seconds: float = READ_SECONDS,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `NotAllowed` for a password that would cross the network unprotected."""
        if server.auth == "basic" and not server.tls:
            raise NotAllowed("use Basic authentication without TLS", "it sends the password in clear", "Turn TLS on.")
        self._server = server
        self._username = username
        self._password = password
        self._ca_bundle = ca_bundle
        self._read_seconds = read_seconds
        self._wait = wait
        self._clock = clock
        self._pool: RunspacePool | None = None
        self._connection: WSMan | None = None
        self._lock = threading.Lock()

    async def perform(self, request: Request) -> Response:
        """Status 200 and a `collectors.exchange.ShellAnswer`. Raises `SignInFailed`, `ProtocolViolation`, or after
        some attempts `Throttled`, `ConnectionLost` or `ServiceUnavailable`."""
        question = msgspec.json.decode(request.body, type=Question)
        attempt = 1
        while True:
            answer = await asyncio.to_thread(self._attempt, question)
            if isinstance(answer, _Answer):
                rows = b",".join(answer.rows)
                told = msgspec.json.encode(
                    {"warnings": answer.warnings, "errors": answer.errors, "failed": answer.failed}
                )
                return Response(status=200, headers={}, body=b'{"rows":[' + rows + b"]," + told[1:])
            if attempt == ATTEMPTS or not isinstance(answer, TransientError):
                raise answer
            await self._wait(QUOTA_SECONDS if isinstance(answer, Throttled) else 2.0**attempt)
            attempt += 1

    async def aclose(self) -> None:
        """Close the pool: a server allows an account few of them."""
        await asyncio.to_thread(self._close)

    def _attempt(self, question: Question) -> _Answer | TenantryError:
        """Errors are values: an exception under way would keep the connection, and with it the password."""
        with self._lock:
            try:
                return self._run(self._opened(), question)
            except FAILURES as error:
                failure = mapped(error)
            self._drop()
            return failure

    def _opened(self) -> RunspacePool:
        if self._pool is None:
            server = self._server
            self._connection = AskedOnce(
                server.host,
                port=server.port,
                ssl=server.tls,
                path=server.path,
                auth=server.auth,
                username=self._username,
                password=self._password.text(),
                cert_validation=self._ca_bundle or True,  # type: ignore[arg-type]  # a path is taken too
                encryption="auto",
                read_timeout=self._read_seconds,  # type: ignore[arg-type]  # parts of seconds are taken too
                negotiate_service="HTTP",
            )
            pool = RunspacePool(self._connection, configuration_name=CONFIGURATION)
            self._pool = pool
            pool.open()
        return self._pool

    def _run(self, pool: RunspacePool, question: Question) -> _Answer:
        until = self._clock() + LONGEST_RUN_SECONDS
        rows: list[bytes] = []
        taken = 0
        select = frozenset(question.select)
        shell = PowerShell(pool)
        shell.add_cmdlet(question.cmdlet)
        for name, value in question.parameters.items():
            shell.add_parameter(name, value)
        shell.begin_invoke()
        while shell.state == PSInvocationState.RUNNING:
            shell.poll_invoke()
            found = [row_of(output, select) for output in shell.output]
            shell.output.clear()
            rows += found
            taken += sum(map(len, found))
            if taken > MOST_ROW_BYTES or self._clock() > until:
                shell.stop()
                return _Answer(rows, [], [f"stopped after {len(rows)} rows: too many or too slow"], True)
        warnings = [shortened(str(record.message)) for record in shell.streams.warning[:MOST_MESSAGES]]
        errors = [shortened(error_text(record)) for record in shell.streams.error[:MOST_MESSAGES]]
        failed = shell.state != PSInvocationState.COMPLETED
        shell.close()
        return _Answer(rows, warnings, errors or (["the pipeline failed"] if failed else []), failed)

    def _close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        """A pool that cannot be closed any more is closed by the server after its idle time."""
        pool, self._pool = self._pool, None
        connection, self._connection = self._connection, None
        with contextlib.suppress(*FAILURES):
            if pool is not None and pool.shell.opened:
                pool.close()
        if connection is not None:
            connection.close()


def mapped(error: Exception) -> TenantryError:
    """One of `FAILURES` as ours. Those of reading an answer may quote it, or the password: only their type is told."""
    match error:
        case ImportError():
            return NotAllowed(
                "sign in with Kerberos", "this node has no Kerberos library", "Install `tenantry[kerberos]` on it."
            )
        case AuthenticationError() | InvalidCredentialError() | WinRMTransportError(code=401 | 403):
            return SignInFailed(*REJECTED)
        case WSManFaultError(code=code) if code == QUOTA_FAULT or QUOTA_TEXT in str(error):
            return Throttled(WORKLOAD, QUOTA_SECONDS)
        case WinRMTransportError(code=429):
            return Throttled(WORKLOAD, QUOTA_SECONDS)
        case WinRMTransportError(code=code) if code >= 500:
            return ServiceUnavailable(WORKLOAD, code, "")
        case WSManFaultError():
            return ConnectionLost(WORKLOAD, shortened(str(error)))
        case requests.exceptions.RequestException():
            return ConnectionLost(WORKLOAD, type(error).__name__)
        case WinRMError() if QUOTA_TEXT in str(error):
            return Throttled(WORKLOAD, QUOTA_SECONDS)
        case WinRMError():
            return ProtocolViolation(WORKLOAD, shortened(str(error)))
        case _:
            return ProtocolViolation(WORKLOAD, f"an answer that cannot be read ({type(error).__name__})")


def error_text(record: Any) -> str:
    """The message of an error record; its exception's when it has none."""
    exception = getattr(record, "exception", None)
    properties = {**getattr(exception, "adapted_properties", {}), **getattr(exception, "extended_properties", {})}
    return str(properties.get("Message") or record.details_message or record.message or record)


def row_of(output: Any, select: frozenset[str]) -> bytes:
    """An object as JSON: its properties, or only those in `select`; a plain value as property `value`."""
    if not isinstance(output, GenericComplexObject):
        return msgspec.json.encode({"value": plain(output)})
    properties = {**output.adapted_properties, **output.extended_properties}
    return msgspec.json.encode(
        {
            name: plain(value)
            for name, value in properties.items()
            if name not in REMOTING_PROPERTIES and (not select or name in select)
        }
    )


def plain(value: Any, depth: int = 0) -> Any:
    """A deserialised value as JSON has it: an object by its text if it has one, else by its properties."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime() | date():
            return value.isoformat()
        case bytes():
            return base64.b64encode(value).decode()
        case list() | tuple() | set():
            return [plain(part, depth + 1) for part in value] if depth < DEEPEST else str(value)
        case dict():
            return {str(k): plain(v, depth + 1) for k, v in value.items()} if depth < DEEPEST else str(value)
        case GenericComplexObject() if not value.to_string and depth < DEEPEST:
            properties = {**value.adapted_properties, **value.extended_properties}
            return {str(k): plain(v, depth + 1) for k, v in properties.items()}
        case ComplexObject():
            return str(value)
        case _:
            return str(value)
