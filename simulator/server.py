"""The simulator as a running server: every service on one HTTPS port of the loopback interface, in a thread."""

from __future__ import annotations

import errno
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from simulator.faults import TRANSPORT
from simulator.tls import write_tls_files
from simulator.tokens import Issuer
from simulator.world import World

START_SECONDS = 30.0


class PortTaken(OSError):
    """Another program listens on the port. args: the port."""

    def __str__(self) -> str:
        return f"Port {self.args[0]} on the loopback interface is in use; choose another one or leave it out."


class NotStarted(RuntimeError):
    """The server did not come up within `START_SECONDS`."""


def services() -> tuple[ModuleType, ...]:
    """The service modules, each with `routes` and `TRUTH`. Entra's paths begin with a tenant, so it is asked last."""
    from simulator import control, entra, exchange, graph, keyvault, wsman

    return control, keyvault, graph, exchange, wsman, entra


def application(world: World, issuer: Issuer) -> Starlette:
    """The ASGI application of all services. Its state has their `truths`, for the controls to show."""
    routes: list[BaseRoute] = [route for service in services() for route in service.routes(world, issuer)]
    made = Starlette(routes=routes)
    made.state.truths = truths()
    return made


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which also hands out its transport so that a fault can break the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[TRANSPORT] = self.transport  # type: ignore[literal-required]

    def shutdown(self) -> None:
        """End an idle connection at once: its client may not read, and so never agree to a polite TLS goodbye."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()
        else:
            super().shutdown()


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Simulator:
    """A running Microsoft 365: `with Simulator(world) as m365: ... m365.url ... m365.ca_file`.

    `state` is where its certificates go (a temporary directory that is removed afterwards if not given). `now` is the
    clock of its tokens. Raises `PortTaken`.
    """

    def __init__(
        self,
        world: World,
        port: int = 0,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        state: Path | None = None,
    ) -> None:
        self.world = world
        self.now = now
        self._port = port
        self._state = state
        self._temporary: Path | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.url = ""
        self.ca_file = Path()

    issuer: Issuer

    def __enter__(self) -> Self:
        sockets = _listen(self._port)
        self.url = f"https://localhost:{sockets[0].getsockname()[1]}"
        if self._state is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="simulator-"))
        files = write_tls_files(self._state or self._temporary or Path())
        self.ca_file = files.authority
        self.issuer = Issuer(self.url, self.now)
        config = uvicorn.Config(
            application(self.world, self.issuer),
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            ssl_certfile=files.certificate,
            ssl_keyfile=files.key,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
            backlog=2048,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": sockets}, name="simulator", daemon=True
        )
        self._thread.start()
        if not self._server.ready.wait(START_SECONDS):
            self.close()
            raise NotStarted(START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving, and remove what was temporary. May be called twice."""
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join(START_SECONDS)
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)


def truths() -> dict[str, Callable[..., list[dict[str, Any]]]]:
    """Every service's datasets by name: `TRUTH` of all modules together."""
    return {name: rows for service in services() for name, rows in service.TRUTH.items()}


def _listen(port: int) -> list[socket.socket]:
    """Listening sockets of IPv4 and, where the machine has it, IPv6 loopback, on the same port."""
    for _ in range(20):
        first = _bound(socket.AF_INET, "127.0.0.1", port)
        chosen = first.getsockname()[1]
        try:
            return [first, _bound(socket.AF_INET6, "::1", chosen)]
        except PortTaken:
            first.close()
            if port:
                raise
        except OSError:
            return [first]
    raise PortTaken(port)


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(port) from error
        raise
    return listener
