"""Event to bytes and back.

The state of a stored event is

    version byte 0x01 | key id, 8 bytes | nonce, 12 bytes | AES-256-GCM of msgpack [at, actor, cause, event]

and its additional data is msgpack [stream, version, name]: a state that is copied to another row does not open. Nonces
are random, so one key seals up to 2^32 events. A stored name that is not registered is refused; an old one is brought
up by its upcaster while it is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from domain.errors import EventUnreadable, Malformed
from domain.events import EVENT_TYPES, AnyEvent, Event, Recorded, stored_name
from domain.ids import Stream

FORMAT = 1
KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 12
TAG_BYTES = 16
MAX_STATE_BYTES = 1024 * 1024

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
UPCASTERS: Mapping[str, Upcaster] = {}
"""Old stored name to a function from the old event, as plain values, to its next shape (its new name under `event`)."""


class Stored(msgspec.Struct, frozen=True):
    """A stored event as its bytes stand in the store: what the ledger hashes."""

    position: int
    stream: str
    version: int
    name: str
    state: bytes


class _State(msgspec.Struct, frozen=True, array_like=True):
    at: datetime
    actor: str
    cause: str
    event: msgspec.Raw


def key_id(key: bytes) -> bytes:
    """Names a key without telling anything of it."""
    return hashlib.sha256(b"tenantry event key\x00" + key).digest()[:KEY_ID_BYTES]


def bound(stream: str, version: int, name: str) -> bytes:
    """The additional data of a state: the place that it belongs to."""
    return msgspec.msgpack.encode((stream, version, name))


class SealedMapper:
    """`key`: 32 bytes."""

    def __init__(self, key: bytes, upcasters: Mapping[str, Upcaster] = UPCASTERS) -> None:
        if len(key) != KEY_BYTES:
            raise Malformed("event key", f"{len(key)} bytes", f"{KEY_BYTES} bytes")
        self._cipher = AESGCM(key)
        self._prefix = bytes([FORMAT]) + key_id(key)
        self._upcasters = upcasters
        self._encoder = msgspec.msgpack.Encoder()
        self._state = msgspec.msgpack.Decoder(_State)
        self._events = {name: msgspec.msgpack.Decoder(kind) for name, kind in EVENT_TYPES.items()}

    def __repr__(self) -> str:
        return f"SealedMapper(key id {self._prefix[1:].hex()})"

    def seal(self, stream: Stream, version: int, event: AnyEvent, *, at: datetime, actor: str, cause: str) -> bytes:
        """The state under which `event` is stored. Raises `Malformed` when it is too large or `at` has no zone."""
        if at.tzinfo is None:
            raise Malformed("time of an event", at.isoformat(), "a time with its zone")
        plain = self._encoder.encode((at, actor, cause, event))
        if len(plain) > MAX_STATE_BYTES:
            raise Malformed("size of an event", len(plain), f"at most {MAX_STATE_BYTES} bytes")
        nonce = os.urandom(NONCE_BYTES)
        return self._prefix + nonce + self._cipher.encrypt(nonce, plain, bound(stream, version, stored_name(event)))

    def sealed(self, state: bytes) -> bool:
        """Whether it claims to be sealed with this key."""
        return state.startswith(self._prefix)

    def open(self, stored: Stored) -> Recorded:
        """Raises `EventUnreadable`: changed, moved from another row, sealed with another key, or not registered."""
        try:
            return self._open(stored)
        except InvalidTag:
            why = "it was changed or does not belong here"
        except msgspec.MsgspecError as error:
            why = f"its content does not have its form ({error})"
        raise EventUnreadable(stored.stream, stored.version, stored.name, why)

    def _open(self, stored: Stored) -> Recorded:
        if not stored.name.isascii() or (stored.name not in self._events and stored.name not in self._upcasters):
            raise _unreadable(stored, "its name is not registered")
        start = len(self._prefix)
        if len(stored.state) < start + NONCE_BYTES + TAG_BYTES or stored.state[:1] != self._prefix[:1]:
            raise _unreadable(stored, "its state does not have a known format")
        if stored.state[:start] != self._prefix:
            raise _unreadable(stored, "it is sealed with another event key")
        plain = self._cipher.decrypt(
            stored.state[start : start + NONCE_BYTES],
            stored.state[start + NONCE_BYTES :],
            bound(stored.stream, stored.version, stored.name),
        )
        state = self._state.decode(plain)
        return Recorded(
            stream=Stream(stored.stream),
            version=stored.version,
            position=stored.position,
            at=state.at,
            actor=state.actor,
            cause=state.cause,
            event=self._event(stored, state.event),
        )

    def _event(self, stored: Stored, raw: msgspec.Raw) -> AnyEvent:
        decoder = self._events.get(stored.name)
        if decoder is not None:
            return cast(AnyEvent, decoder.decode(raw))
        name, shape = stored.name, cast(dict[str, Any], msgspec.msgpack.decode(raw))
        seen: set[str] = set()
        while name in self._upcasters and name not in seen:
            seen.add(name)
            shape = self._upcasters[name](shape)
            name = str(shape.get("event"))
        kind: type[Event] | None = EVENT_TYPES.get(name)
        if kind is None:
            raise _unreadable(stored, f"its upcaster leads to {name}, which is not registered")
        return cast(AnyEvent, msgspec.convert(shape, kind))


def _unreadable(stored: Stored, why: str) -> EventUnreadable:
    return EventUnreadable(stored.stream, stored.version, stored.name, why)
