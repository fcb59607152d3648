"""What travels between actors: facts, and secrets only sealed to their receiver."""

from __future__ import annotations

from typing import Protocol

import msgspec

from collectors.work import Assignment, Step
from crypto import transit
from domain.errors import PermanentError
from domain.ids import RunId, TenantId
from query.passes import Pass
from vault.messages import Release, ReleaseDataKey


class Unforeseen(PermanentError):
    """(call, type of the error). A mistake of ours; the text of the error is kept out, it may quote anything."""

    sentence = "Call {0} failed with {1}, which nobody foresaw. The logs in the state directory say where."


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A collector's next step of one collection, for the activation with this `epoch` of the assignment's run.

    `token` (access token, or the Exchange Server account) and `data_key` are sealed to the collector's transit key
    `sealed_to`. `parent`: the recorded passes of the dataset whose rows this one asks about, item by item.
    """

    assignment: Assignment
    epoch: int
    sealed_to: bytes
    token: bytes
    data_key: bytes
    parent: tuple[Pass, ...] = ()


def token_context(assignment: Assignment) -> bytes:
    return transit.context("token", assignment.tenant, assignment.run, assignment.dataset)


def data_key_context(assignment: Assignment) -> bytes:
    return transit.context("data-key", assignment.tenant, assignment.run, assignment.dataset)


class Collector(Protocol):
    """A collector as a tenant actor sees it, wherever it runs. Each raises `CollectorLost` when it died."""

    async def transit_key(self) -> bytes: ...

    async def next_batch(self, work: Work) -> Step: ...

    async def forget(self, tenant: TenantId, run: RunId, epoch: int) -> None: ...


class Vault(Protocol):
    """The vault as a tenant actor sees it: only ciphertext comes out."""

    async def release(self, request: Release) -> bytes: ...

    async def release_data_key(self, request: ReleaseDataKey) -> bytes: ...
