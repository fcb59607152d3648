"""A credential together with every envelope that is recorded to hold it.

A resealing changes the envelope, not what is in it. It is recorded before the new envelope is stored: an envelope that
no event names is never opened, whatever key it is sealed to, for anyone who may write secrets can seal to the public
key. Until the new envelope is stored, and for ever after a kill between the two, the former one is in its place; it
holds the same credential and is named by an earlier event, so it counts too.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from domain import credential as credentials
from domain.credential import Credential
from domain.events import CredentialEvent, CredentialResealed, CredentialRotated, CredentialSealed
from eventstore.streams import Held

MOST_DIGESTS = 256
"""Resealings that are remembered; the first and the newest envelopes are. A credential is replaced long before."""


class Lineage(msgspec.Struct, frozen=True):
    """`digests`: of the envelopes that hold this credential, oldest first, the one that was recorded last at the end.
    `generation`: how many credentials this slot has had."""

    credential: Credential | None = None
    digests: tuple[str, ...] = ()
    generation: int = 0


HeldLineage: TypeAlias = Held[Lineage, CredentialEvent]


def evolve(state: Lineage, event: CredentialEvent) -> Lineage:
    credential = credentials.evolve(state.credential, event)
    match event:
        case CredentialSealed() | CredentialRotated():
            return Lineage(credential, (event.digest,), state.generation + 1)
        case CredentialResealed():
            kept = state.digests if len(state.digests) < MOST_DIGESTS else (state.digests[0], *state.digests[2:])
            return Lineage(credential, (*kept, event.digest), state.generation)
        case _:
            return Lineage(credential, state.digests, state.generation)
