"""One dataset of one activation: ask the collector for the next batch, append what it says, until the pass ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import structlog

from actors.activation import Activation
from actors.messages import Collector, Work, data_key_context, token_context
from actors.patience import ACTOR, PASSING
from actors.standing import REASON, CredentialStands
from collectors.dataset import Dataset as Definition
from collectors.dataset import lost_of, window_of
from collectors.reader import shortened
from collectors.work import Assignment, Batch, Complete, End, NotPossible, Restart, Step, Truncated
from crypto import transit
from crypto.datakey import DataKey
from crypto.secret import Secret
from domain import collection as collections
from domain import ids
from domain.collection import Collection
from domain.errors import (
    ActivationLost,
    CollectorLost,
    EnvelopeRejected,
    NotAllowed,
    PermanentError,
    ProtocolViolation,
    ReleaseRefused,
    SealBroken,
    SignInFailed,
    StorageFull,
    TenantryError,
    TokenExpired,
    TransientError,
    TransitKeyChanged,
)
from domain.events import BatchRecorded, CollectionEvent, CollectionStarted, DatasetOutcome, Mode, OutcomeKind
from domain.ids import RunId, collection_stream
from eventstore.streams import Held
from query.passes import Pass, fold_batches
from query.state import showing

log = structlog.get_logger()

CALL_ATTEMPTS = 30
"""Failed calls of a collector for one batch before its collection is truncated; a restart takes about a second."""
OUTCOMES: dict[str, OutcomeKind] = {
    "complete": "complete",
    "truncated": "truncated",
    "not-possible": "not-possible",
    "never": "not-started",
    "running": "not-started",
}
REASONS: dict[type[TenantryError], str] = {
    StorageFull: "storage-full",
    ProtocolViolation: "protocol",
    SealBroken: "seal-broken",
    CollectorLost: "collector-lost",
}
"""Why a pass ends truncated when its collector gives up with one of these. `failed` or `unavailable` for the others."""


class DatasetCollection:
    """Carries one collection from wherever it stands to its end.

    What goes wrong with this dataset ends this dataset. Raised is only what concerns the whole activation:
    `ActivationLost`, and what the event store raises.
    """

    def __init__(self, activation: Activation, definition: Definition, collector: Collector, *, full: bool) -> None:
        self._activation = activation
        self._definition = definition
        self._collector = collector
        self._full = full
        self._begun = time.monotonic()
        self._parent: tuple[Pass, ...] = ()
        self._held: Held[Collection, CollectionEvent] = Held(
            activation.store,
            collection_stream(activation.tenant.id, definition.name),
            collections.evolve,
            Collection(),
        )

    async def collect(self) -> DatasetOutcome:
        """Starts or continues the pass and returns how it ended."""
        self._start()
        if self._running and (lacking := self._take_parent()):
            self._record(ended(lacking))
        while self._running:
            self._activation.check()
            step = await self._step()
            self._activation.check()
            self._record(step)
        return self.outcome()

    def skip(self, reason: str, detail: str) -> DatasetOutcome:
        """Ends the dataset without asking for anything."""
        self._start()
        if self._running:
            self._record(ended(NotPossible(reason, detail)))
        return self.outcome()

    def outcome(self) -> DatasetOutcome:
        state = self._held.state
        if state.run != self._activation.id:
            return DatasetOutcome(
                dataset=self._definition.name,
                outcome="truncated",
                reason="run-ended",
                detail="Another run of the tenant began this dataset anew.",
            )
        reason, detail = state.reason, state.detail
        if state.state == "complete" and state.lost is not None:
            reason, detail = gap_words(state.lost, self._definition)
        return DatasetOutcome(
            dataset=self._definition.name,
            outcome=OUTCOMES[state.state],
            reason=reason or None,
            detail=detail or None,
            rows=state.rows,
            requests=state.requests,
            seconds=round(state.seconds, 3),
        )

    @property
    def _running(self) -> bool:
        return self._held.state.state == "running" and self._held.state.run == self._activation.id

    def _start(self) -> None:
        self._append(lambda state: collections.start(state, self._beginning(state)))

    def _append(self, decide: Callable[[Collection], list[CollectionEvent]]) -> None:
        self._activation.append(self._held, decide)

    def _beginning(self, state: Collection) -> CollectionStarted:
        definition, now = self._definition, self._activation.clock()
        since = None if self._full else state.delta_link
        mode: Mode = definition.mode
        if mode == "delta" and since is None:
            mode = "full"
        if mode != "window":
            return CollectionStarted(run=self._activation.id, mode=mode, since=since if mode == "delta" else None)
        return CollectionStarted(
            run=self._activation.id,
            mode=mode,
            window=window_of(definition, None if self._full else state.watermark, now),
            lost=lost_of(definition, state.watermark, now) or msgspec.UNSET,
        )

    def _take_parent(self) -> NotPossible | None:
        """The passes that list the items; or that they do not list all of them, so that nothing can be complete."""
        parent = self._definition.items
        if not parent:
            return None
        stream = collection_stream(self._activation.tenant.id, ids.Dataset(parent))
        passes = fold_batches(self._activation.store.read(stream))
        if not passes or not passes[-1].complete:
            return NotPossible("parent-incomplete", f"{parent}, which lists the items, was not collected completely.")
        self._parent = tuple(showing(passes))
        return None

    async def _step(self) -> Step:
        """One answer of the collector, asked for again when it died or its token ran out."""
        refused: Secret | None = None
        lost = 0
        while True:
            try:
                secret, data_key = await self._secret(refused), await self._activation.data_key()
            except (SignInFailed, ReleaseRefused, EnvelopeRejected) as refusal:
                return ended(NotPossible(*refusal_words(refusal)))
            except PASSING as error:
                return ended(Truncated("unavailable", str(error)))
            try:
                step = await self._collector.next_batch(await self._work(secret, data_key))
                if self._definition.workload == "exchange-server" and (step.batch or isinstance(step.end, Complete)):
                    self._activation.accept_account()
                return step
            except TokenExpired:
                if refused is not None:
                    return ended(Truncated("token-refused", "A fresh token was refused in the middle of the pass."))
                refused = secret
            except SignInFailed as refusal:
                self._activation.reject_account(refusal)
                return ended(NotPossible(*refusal_words(refusal)))
            except ActivationLost:
                raise
            except (TransientError, PermanentError) as error:
                lost += 1
                if isinstance(error, PermanentError) or lost == CALL_ATTEMPTS:
                    return ended(gave_up(error))
                log.warning("collector-lost", dataset=self._definition.name, lost=lost, why=type(error).__name__)
                if not isinstance(error, TransitKeyChanged):
                    await self._activation.wait(ACTOR.pause(lost - 1))

    async def _secret(self, refused: Secret | None) -> Secret:
        if self._definition.workload == "exchange-server":
            return await self._activation.exchange_server_account()
        return await self._activation.token(self._definition.workload, refused=refused)

    async def _work(self, secret: Secret, data_key: DataKey) -> Work:
        activation, state = self._activation, self._held.state
        assignment = Assignment(
            tenant=activation.tenant.id,
            run=activation.id,
            dataset=self._definition.name,
            mode=state.mode,
            since=state.since,
            window=state.window,
            cursor=state.cursor,
            restarts=state.restarts,
            cloud=activation.cloud,
            exchange_server=activation.tenant.exchange_server,
        )
        public = await self._collector.transit_key()
        with data_key.to_secret() as key:
            return Work(
                assignment=assignment,
                epoch=activation.epoch,
                sealed_to=public,
                token=transit.seal(public, secret, token_context(assignment)),
                data_key=transit.seal(public, key, data_key_context(assignment)),
                parent=self._parent,
            )

    def _record(self, step: Step) -> None:
        """Appends the step. What a former activation has counted or ended already is left as it is: read on from there.

        A batch that leads nowhere ends the pass.
        """
        run, version = self._activation.id, self._held.version
        seconds = time.monotonic() - self._begun
        try:
            if step.batch is not None:
                recorded = batch_recorded(run, step.batch)
                self._append(lambda state: collections.record_batch(state, recorded))
            if step.end is not None:
                end = step.end
                requests = step.requests - (step.batch.requests if step.batch else 0)
                self._append(lambda state: ending(state, run, end, requests, seconds))
        except (NotAllowed, ProtocolViolation) as refusal:
            self._held.refresh()
            if self._held.version == version and self._running:
                lost = Truncated("protocol", str(refusal))
                self._append(lambda state: ending(state, run, lost, step.requests, seconds))


def ended(end: End) -> Step:
    """A step that achieved nothing but this."""
    return Step(batch=None, end=end, requests=0)


def gave_up(error: TransientError | PermanentError) -> Truncated:
    unnamed = "unavailable" if isinstance(error, TransientError) else "failed"
    return Truncated(REASONS.get(type(error), unnamed), shortened(str(error)))


def ending(state: Collection, run: RunId, end: End, requests: int, seconds: float) -> list[CollectionEvent]:
    match end:
        case Complete():
            return collections.complete(
                state,
                run,
                requests=requests,
                seconds=seconds,
                expected=end.expected,
                expected_by=end.expected_by,
                delta_link=end.delta_link,
                watermark=end.watermark,
            )
        case Truncated():
            return collections.truncate(
                state, run, reason=end.reason, detail=end.detail, requests=requests, seconds=seconds
            )
        case NotPossible():
            return collections.not_possible(
                state, run, reason=end.reason, detail=end.detail, requests=requests, seconds=seconds
            )
        case Restart():
            return collections.restart(state, run, end.reason, end.mode, requests=requests)


def batch_recorded(run: RunId, batch: Batch) -> BatchRecorded:
    return BatchRecorded(
        run=run,
        key=batch.key,
        data_key=batch.data_key,
        rows=batch.rows,
        row_bytes=batch.row_bytes,
        stored_bytes=batch.stored_bytes,
        digest=batch.digest,
        requests=batch.requests,
        after=batch.after,
        cursor=batch.cursor,
    )


def gap_words(lost: tuple[datetime, datetime], definition: Definition) -> tuple[str, str]:
    """(reason, detail) of a complete outcome behind which time passed that nobody collected."""
    since, until = (f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" for moment in lost)
    return "gap", (
        f"Nothing is collected of {since} to {until} UTC: the last complete collection ended before, and this log is "
        f"read {definition.lookback_days} days back."
    )


def refusal_words(refusal: SignInFailed | ReleaseRefused | EnvelopeRejected | TransientError) -> tuple[str, str]:
    """(reason, detail) of an outcome."""
    if isinstance(refusal, SignInFailed):
        code, _, sentence, remedy = refusal.args
        return (f"AADSTS{code}" if code else "sign-in-refused"), f"{sentence} {remedy}"
    if isinstance(refusal, ReleaseRefused | EnvelopeRejected):
        return (REASON if isinstance(refusal, CredentialStands) else "not-released"), str(refusal)
    return "unavailable", str(refusal)
