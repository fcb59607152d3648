"""Serving callers: who may connect, one thread for each connection, one answer for each request, when to end."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
import traceback
from collections.abc import Callable, Collection
from threading import Lock, Thread
from typing import Any, Final

from domain.errors import KeyholderUnavailable, NotAllowed, ProtocolViolation, TenantryError
from vault.line import FRAME_SECONDS, Peer, peer_of, receive, send
from vault.messages import VERSION, Answer, Hello, Refused, Request, decode_request, encode, refusal

MAX_CONNECTIONS: Final = 64
SILENT_SECONDS: Final = 600.0
"""After this long without a request a connection is closed; its client connects again."""
CLOSING_SECONDS: Final = 5.0
"""How long requests that are being answered may take when the process is asked to end."""


class Server:
    """Serves each connection in a thread until asked to end, or until nobody was connected for `idle_seconds` (0: ever
    on)."""

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[Request, str], Answer],
        users: Collection[int],
        idle_seconds: float,
        log: Any,
    ) -> None:
        self._listener = listener
        self._answer = answer
        self._users = users
        self._idle_seconds = idle_seconds
        self._log = log
        self._connections: dict[socket.socket, Thread] = {}
        self._lock = Lock()
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._ending = False

    @property
    def wakeup(self) -> int:
        """For `signal.set_wakeup_fd`: a signal that comes just before the wait would else be seen after it."""
        return self._wake.fileno()

    def end(self) -> None:
        """From any thread or a signal handler: `serve` returns soon."""
        self._ending = True
        self._rouse()

    def _rouse(self) -> None:
        """When the buffer is full, `serve` is awake already."""
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b"\0")

    def serve(self) -> str:
        """Why it ended: `asked` or `idle`."""
        why = "asked"
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            alone_since = time.monotonic()
            while not self._ending:
                alone = not self._connections
                left = max(0.0, alone_since + self._idle_seconds - time.monotonic())
                ready = selector.select(left if alone and self._idle_seconds else None)
                if not ready and alone and not self._connections:
                    why = "idle"
                    break
                for key, _ in ready:
                    if key.fileobj is self._woken:
                        self._woken.recv(4096)
                    else:
                        self._accept()
                alone_since = time.monotonic()
        self._close()
        return why

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            self._log.warning("not-accepted", why=error.strerror)
            return
        peer = peer_of(connection)
        why = self._unwelcome(peer)
        if why is not None:
            self._log.warning("turned-away", why=str(why), pid=peer.pid, uid=peer.uid)
            with connection:
                _tell(connection, refusal(why))
            return
        thread = Thread(target=self._converse, args=(connection, peer), daemon=True)
        with self._lock:
            self._connections[connection] = thread
        thread.start()

    def _unwelcome(self, peer: Peer) -> TenantryError | None:
        if peer.uid not in self._users:
            return NotAllowed("use the keyholder", f"it does not serve user {peer.uid}", "Run as its own user.")
        if len(self._connections) >= MAX_CONNECTIONS:
            return KeyholderUnavailable(f"{MAX_CONNECTIONS} connections are open")
        return None

    def _converse(self, connection: socket.socket, peer: Peer) -> None:
        try:
            with connection:
                if self._greeted(connection):
                    while (body := receive(connection, SILENT_SECONDS)) is not None:
                        send(connection, self._answered(decode_request(body), peer))
        except ProtocolViolation as error:
            self._log.warning("not-understood", why=error.args[-1], pid=peer.pid, uid=peer.uid)
        except (KeyholderUnavailable, OSError) as error:
            self._log.info("connection-lost", why=type(error).__name__, pid=peer.pid)
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            self._rouse()

    def _greeted(self, connection: socket.socket) -> bool:
        """Both sides say their version first. What cannot be understood is told so, once, and the line is cut."""
        try:
            body = receive(connection, FRAME_SECONDS)
            hello = None if body is None else decode_request(body)
            if hello is not None and not (isinstance(hello, Hello) and hello.version == VERSION):
                raise ProtocolViolation("keyholder", f"a caller that does not speak version {VERSION}")
        except ProtocolViolation as error:
            _tell(connection, refusal(error))
            raise
        if hello is not None:
            send(connection, encode(Hello(pid=os.getpid())))
        return hello is not None

    def _answered(self, request: Request, peer: Peer) -> bytes:
        began = time.monotonic()
        try:
            result: Answer = self._answer(request, f"uid:{peer.uid}")
        except TenantryError as error:
            result = refusal(error)
        except Exception as error:  # noqa: BLE001 - the last boundary: the fault is logged and told, without its text
            at = traceback.extract_tb(error.__traceback__)[-1]
            self._log.error("fault", error=type(error).__name__, where=f"{at.filename}:{at.lineno}")
            result = Refused(error="KeyholderUnavailable", args=(f"a fault of its own, {type(error).__name__}",))
        self._log.info(
            "answered", **_facts(request), **_outcome(result), pid=peer.pid, ms=round(1000 * (time.monotonic() - began))
        )
        return encode(result)

    def _close(self) -> None:
        """Takes no more requests, waits for the answers under way, then hangs up."""
        self._listener.close()
        with self._lock:
            open_now = dict(self._connections)
        for connection in open_now:
            try:
                connection.shutdown(socket.SHUT_RD)
            except OSError:
                continue
        deadline = time.monotonic() + CLOSING_SECONDS
        for thread in open_now.values():
            thread.join(max(0.0, deadline - time.monotonic()))


_LOGGED: Final = ("run", "tenant", "slot", "activation", "epoch", "purpose", "operator", "actor", "cause")


def _facts(request: Request) -> dict[str, Any]:
    named = {name: getattr(request, name, None) for name in _LOGGED}
    return {"request": request.__struct_config__.tag, **{k: v for k, v in named.items() if v not in (None, "")}}


def _outcome(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, Refused):
        return {"outcome": "refused", "error": answer.error, "facts": list(answer.args)}
    return {"outcome": answer.__struct_config__.tag}


def _tell(connection: socket.socket, answer: Answer) -> None:
    """For a caller that is turned away and may be gone already."""
    try:
        send(connection, encode(answer))
    except OSError:
        return
