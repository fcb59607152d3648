"""A tenant actor's core on a stage: how a run of one tenant goes when everything around it may fail."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import pytest
from stage import (
    BEGIN,
    CONTOSO,
    FABRIKAM,
    ScriptedCollector,
    Stage,
    batch,
    ends,
    everywhere,
    play,
    refused,
)

from actors.collection import CALL_ATTEMPTS
from actors.messages import Unforeseen, Work, token_context
from actors.patience import ACTOR, LOGIN
from collectors.work import Complete, NotPossible, Restart, Step, Truncated
from crypto.transit import TransitKey
from domain.errors import (
    ActivationLost,
    CollectorLost,
    EnvelopeRejected,
    KeyholderUnavailable,
    ProtocolViolation,
    ReleaseRefused,
    ServiceUnavailable,
    SignInFailed,
    StorageFull,
    StoreUnavailable,
    Throttled,
    TokenExpired,
    Unknown,
)
from domain.events import (
    AnyEvent,
    BatchRecorded,
    CollectionCompleted,
    CollectionRestarted,
    CollectionStarted,
    CollectionTruncated,
    CredentialRejected,
    CredentialVerified,
    RunCancelled,
    RunFinished,
    RunRequested,
    RunResumed,
    RunStarted,
    TenantOffboarded,
    TenantSuspended,
)
from domain.ids import (
    ENTRA,
    EXCHANGE_SERVER,
    Dataset,
    RunId,
    Stream,
    collection_stream,
    credential_stream,
    run_stream,
    tenant_stream,
)
from eventstore.store import EventStore

ORGANIZATION, USERS, GROUPS = "entra.organization", "entra.users", "entra.groups"
OWNERS, MAILBOXES, ONPREM = "entra.group-owners", "exchange.mailboxes", "onprem.mailboxes"
CONNECTORS, SIGN_INS = "onprem.receive-connectors", "audit.sign-ins"


@pytest.fixture
def stage() -> Stage:
    return Stage()


def of_kind(events: list[AnyEvent], kind: type) -> list[AnyEvent]:
    return [event for event in events if isinstance(event, kind)]


def test_a_run_records_each_batch_and_how_each_dataset_ended(stage: Stage) -> None:
    run = stage.request(ORGANIZATION, USERS)
    collector = ScriptedCollector({USERS: [batch(None, "1"), batch("1", "2", end=Complete(delta_link="link"))]})

    assert stage.carry_out(run, collector) == "finished"

    assert stage.outcomes(run) == {ORGANIZATION: ("complete", None, 0), USERS: ("complete", None, 20)}
    assert [work.assignment.cursor for work in collector.asked(USERS)] == [None, "1"]
    assert collector.forgotten == [(CONTOSO, run, 1)]
    assert stage.issued.closed


def test_the_datasets_of_a_tenant_are_collected_at_the_same_time(stage: Stage) -> None:
    """None is answered before every one that waits for no other has been asked for."""
    names = [name for name, one in stage.catalog.items() if name != ORGANIZATION and not one.items]
    all_asked = asyncio.Barrier(len(names))

    async def answer(_: Work) -> Step:
        await all_asked.wait()
        return ends(Complete())

    run = stage.request(ORGANIZATION, *names)

    assert stage.carry_out(run, ScriptedCollector({name: [answer] for name in names})) == "finished"
    assert len(names) > 5
    assert set(stage.outcomes(run).values()) == {("complete", None, 0)}


def test_the_next_run_goes_on_from_the_delta_link_and_a_full_one_does_not(stage: Stage) -> None:
    collector = ScriptedCollector({USERS: [batch(None, "1", end=Complete(delta_link="link"))]})
    stage.carry_out(stage.request(USERS), collector)

    stage.carry_out(stage.request(USERS), collector)
    stage.carry_out(stage.request(USERS, full=True), collector)

    assert [(w.assignment.mode, w.assignment.since) for w in collector.asked(USERS)] == [
        ("full", None),
        ("delta", "link"),
        ("full", None),
    ]


def test_nothing_behind_a_gate_is_asked_when_the_gate_did_not_succeed(stage: Stage) -> None:
    behind = (USERS, MAILBOXES, ONPREM, CONNECTORS)
    run = stage.request(ORGANIZATION, *behind)
    collector = ScriptedCollector({ORGANIZATION: [ends(NotPossible("not-permitted", "Grant it."))]})

    assert stage.carry_out(run, collector) == "finished"

    outcomes = stage.outcomes(run)
    assert [outcomes[name] for name in behind] == [("not-started", "gate", 0)] * 4
    assert [work.assignment.dataset for work in collector.works] == [ORGANIZATION]
    assert not any(stage.collection(name) for name in behind)


def test_a_run_without_the_gate_is_not_gated(stage: Stage) -> None:
    run = stage.request(USERS, ONPREM)

    assert stage.carry_out(run, ScriptedCollector()) == "finished"
    assert {outcome for outcome, _, _ in stage.outcomes(run).values()} == {"complete"}


def test_items_of_an_incomplete_parent_are_not_asked_for(stage: Stage) -> None:
    run = stage.request(GROUPS, OWNERS)
    collector = ScriptedCollector({GROUPS: [batch(None, "1", end=Truncated("unavailable", "HTTP 503."))]})

    stage.carry_out(run, collector)

    assert stage.outcomes(run)[OWNERS] == ("not-possible", "parent-incomplete", 0)
    assert not collector.asked(OWNERS)


def test_items_of_a_parent_that_was_never_collected_are_not_called_complete(stage: Stage) -> None:
    run = stage.request(OWNERS)
    collector = ScriptedCollector()

    stage.carry_out(run, collector)

    assert stage.outcomes(run)[OWNERS] == ("not-possible", "parent-incomplete", 0)
    assert not collector.works


def test_items_come_from_the_parent_as_it_was_last_collected(stage: Stage) -> None:
    collector = ScriptedCollector({GROUPS: [batch(None, "1", end=Complete(delta_link="link"))]})
    stage.carry_out(stage.request(GROUPS), collector)

    run = stage.request(OWNERS)
    stage.carry_out(run, collector)

    assert stage.outcomes(run)[OWNERS][0] == "complete"
    assert [one.rows for work in collector.asked(OWNERS) for one in work.parent] == [10]


def test_a_token_that_ran_out_is_renewed_in_the_middle_of_a_pass(stage: Stage) -> None:
    run = stage.request(USERS)
    collector = ScriptedCollector({USERS: [batch(None, "1"), TokenExpired("graph"), batch("1", "2", end=Complete())]})

    stage.carry_out(run, collector)

    assert stage.outcomes(run)[USERS] == ("complete", None, 20)
    assert stage.issued.asked == ["graph", "graph"]
    first, *_, last = [token_of(collector.transit, work) for work in collector.works]
    assert first != last


def test_a_fresh_token_that_is_refused_too_truncates_the_pass(stage: Stage) -> None:
    run = stage.request(USERS)
    collector = ScriptedCollector({USERS: [batch(None, "1"), TokenExpired("graph"), TokenExpired("graph")]})

    stage.carry_out(run, collector)

    assert stage.outcomes(run)[USERS] == ("truncated", "token-refused", 10)


def test_datasets_whose_common_token_ran_out_renew_it_once(stage: Stage) -> None:
    names = (USERS, GROUPS, "entra.subscribed-skus", "audit.sign-ins")
    run = stage.request(*names)
    collector = ScriptedCollector({name: [TokenExpired("graph"), ends(Complete())] for name in names})

    stage.carry_out(run, collector)

    assert {outcome for outcome, _, _ in stage.outcomes(run).values()} == {"complete"}
    assert stage.issued.asked == ["graph", "graph"]


def test_a_collector_that_died_is_asked_again_at_the_last_batch(stage: Stage) -> None:
    run = stage.request(USERS)
    lost = CollectorLost("graph-0", "ActorDiedError")
    collector = ScriptedCollector({USERS: [batch(None, "1"), lost, lost, batch("1", "2", end=Complete())]})

    stage.carry_out(run, collector)

    assert stage.outcomes(run)[USERS] == ("complete", None, 20)
    assert [work.assignment.cursor for work in collector.works] == [None, "1", "1", "1"]
    assert stage.clock.waited == [0.1, 0.2]


def test_a_collector_that_stays_away_truncates_its_dataset_alone(stage: Stage) -> None:
    run = stage.request(USERS, GROUPS)
    collector = ScriptedCollector({USERS: [CollectorLost("graph-0", "ActorDiedError")] * CALL_ATTEMPTS})

    stage.carry_out(run, collector)

    assert stage.outcomes(run) == {USERS: ("truncated", "collector-lost", 0), GROUPS: ("complete", None, 0)}


def test_work_is_sealed_again_for_a_collector_with_a_new_key(stage: Stage) -> None:
    run = stage.request(USERS)

    async def restarted(work: Work) -> Step:
        collector.transit = TransitKey.generate()
        return batch(None, "1")

    class Behind(ScriptedCollector):
        """Tells its former key once more after it was restarted."""

        async def transit_key(self) -> bytes:
            public, self.told = self.told, self.transit.public
            return public

        told = b""

    collector = Behind({USERS: [restarted, ends(Complete())]})
    collector.told = collector.transit.public

    stage.carry_out(run, collector)

    assert stage.outcomes(run)[USERS] == ("complete", None, 10)
    assert len({work.sealed_to for work in collector.works}) == 2


def test_a_restart_begins_without_cursor_and_counts_the_new_rows_alone(stage: Stage) -> None:
    run = stage.request(USERS)
    collector = ScriptedCollector(
        {USERS: [batch(None, "1"), ends(Restart("page-token-expired", "full")), batch(None, "2", 7, Complete())]}
    )

    stage.carry_out(run, collector)

    assert stage.outcomes(run)[USERS] == ("complete", None, 7)
    assert {one.requests for one in stage.run(run).outcomes} == {3}
    assert (collector.works[-1].assignment.cursor, collector.works[-1].assignment.restarts) == (None, 1)
    assert len(of_kind(stage.collection(USERS), CollectionRestarted)) == 1


def test_a_refused_sign_in_fails_the_run_and_is_not_tried_again(stage: Stage) -> None:
    run = stage.request(ORGANIZATION, MAILBOXES)
    stage.issued.refusals["graph"] = refused()
    collector = ScriptedCollector()

    assert stage.carry_out(run, collector) == "failed"

    state = stage.run(run)
    assert (state.reason, state.detail) == ("AADSTS7000215", "The client secret is wrong. Seal the right one.")
    assert [outcome for outcome, _, _ in stage.outcomes(run).values()] == ["not-started", "not-started"]
    assert stage.issued.asked == ["graph"]
    [rejected] = of_kind(stage.events(credential_stream(CONTOSO, ENTRA)), CredentialRejected)
    assert isinstance(rejected, CredentialRejected)
    assert rejected.permanent


def test_a_resource_that_is_refused_costs_its_datasets_and_is_on_record_once(stage: Stage) -> None:
    run = stage.request(USERS, MAILBOXES, "exchange.transport-rules")
    stage.issued.refusals["exchange"] = refused(500011, "consent")

    assert stage.carry_out(run, ScriptedCollector()) == "finished"

    assert stage.outcomes(run) == {
        USERS: ("complete", None, 0),
        MAILBOXES: ("not-possible", "AADSTS500011", 0),
        "exchange.transport-rules": ("not-possible", "AADSTS500011", 0),
    }
    events = stage.events(credential_stream(CONTOSO, ENTRA))
    assert len(of_kind(events, CredentialRejected)) == len(of_kind(events, CredentialVerified)) == 1


def test_a_sign_in_that_is_refused_after_some_batches_leaves_a_truncated_pass(stage: Stage) -> None:
    run = stage.request(USERS)

    async def revoked(work: Work) -> Step:
        stage.issued.refusals["graph"] = refused()
        raise TokenExpired("graph")

    stage.carry_out(run, ScriptedCollector({USERS: [batch(None, "1"), revoked]}))

    assert stage.outcomes(run)[USERS] == ("truncated", "AADSTS7000215", 10)


def test_a_login_service_that_is_away_for_a_moment_costs_nothing(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.issued.trouble = [ServiceUnavailable("login", 503, "")] * (LOGIN.attempts - 1)

    assert stage.carry_out(run, ScriptedCollector()) == "finished"
    assert stage.clock.waited == [2.0, 4.0, 8.0]
    assert not of_kind(stage.events(credential_stream(CONTOSO, ENTRA)), CredentialRejected)


def test_a_login_service_is_not_asked_again_before_the_time_it_says(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.issued.trouble = [Throttled("login", 17.0)]

    assert stage.carry_out(run, ScriptedCollector()) == "finished"
    assert stage.clock.waited == [17.0]


def test_an_envelope_that_does_not_open_fails_the_run_and_says_so(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.vault.trouble = [EnvelopeRejected("it is garbage")]

    assert stage.carry_out(run, ScriptedCollector()) == "failed"
    assert stage.run(run).reason == "not-released"
    assert "it is garbage" in stage.run(run).detail


def test_a_login_service_that_stays_away_fails_the_run_without_blaming_the_credential(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.issued.refusals["graph"] = ServiceUnavailable("login", 503, "")

    assert stage.carry_out(run, ScriptedCollector()) == "failed"

    assert stage.run(run).reason == "unavailable"
    assert len(stage.issued.asked) == LOGIN.attempts
    assert not of_kind(stage.events(credential_stream(CONTOSO, ENTRA)), CredentialRejected)


def test_a_vault_that_is_restarted_is_waited_for(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.vault.trouble = [KeyholderUnavailable("ActorDiedError")] * 3

    assert stage.carry_out(run, ScriptedCollector()) == "finished"
    assert stage.clock.waited == [0.1, 0.2, 0.4]


def test_a_vault_that_stays_away_fails_the_run(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.vault.trouble = [KeyholderUnavailable("ActorDiedError")] * ACTOR.attempts

    assert stage.carry_out(run, ScriptedCollector()) == "failed"
    assert stage.run(run).reason == "unavailable"


def test_a_credential_that_is_not_released_fails_the_run_before_any_request(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.vault.trouble = [ReleaseRefused(f"credential:{CONTOSO}:entra", "it is revoked")]
    collector = ScriptedCollector()

    assert stage.carry_out(run, collector) == "failed"
    assert stage.run(run).reason == "not-released"
    assert not collector.works
    assert not stage.issued.asked


def test_an_exchange_server_that_refuses_the_account_is_asked_once(stage: Stage) -> None:
    run = stage.request(ONPREM, CONNECTORS)
    refusal = SignInFailed(0, "permanent-credential", "Wrong.", "Seal the right one.")
    collector = ScriptedCollector({ONPREM: [refusal], CONNECTORS: [refusal]})

    assert stage.carry_out(run, collector) == "finished"

    assert set(stage.outcomes(run).values()) == {("not-possible", "sign-in-refused", 0)}
    assert len(of_kind(stage.events(credential_stream(CONTOSO, EXCHANGE_SERVER)), CredentialRejected)) == 1
    assert len(collector.works) == 1
    assert [one.purpose for one in stage.vault.released] == ["exchange-server"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StorageFull("/batches", "no space left"), "storage-full"),
        (ProtocolViolation("graph", "a body of more than 64 MiB"), "protocol"),
        (Unforeseen("next_batch", "KeyError"), "failed"),
        (Unknown("batch", "key", "It is not there."), "failed"),
    ],
)
def test_what_is_wrong_with_one_dataset_truncates_that_dataset_alone(
    stage: Stage, error: Exception, reason: str
) -> None:
    run = stage.request(USERS, GROUPS)
    collector = ScriptedCollector({USERS: [batch(None, "1"), error], GROUPS: [batch(None, "1", end=Complete())]})

    assert stage.carry_out(run, collector) == "finished"
    assert stage.outcomes(run) == {USERS: ("truncated", reason, 10), GROUPS: ("complete", None, 10)}


def test_a_batch_store_that_is_back_in_time_costs_nothing(stage: Stage) -> None:
    run = stage.request(USERS)
    collector = ScriptedCollector(
        {USERS: [StoreUnavailable("batch store", "timeout"), batch(None, "1", 10, Complete())]}
    )

    stage.carry_out(run, collector)

    assert stage.outcomes(run)[USERS] == ("complete", None, 10)


def test_a_batch_that_leads_nowhere_ends_the_pass_instead_of_going_round(stage: Stage) -> None:
    run = stage.request(USERS, GROUPS)
    collector = ScriptedCollector({USERS: [batch(None, "1"), batch("elsewhere", "2")], GROUPS: [batch("1", "1")]})

    stage.carry_out(run, collector)

    assert stage.outcomes(run) == {USERS: ("truncated", "protocol", 10), GROUPS: ("truncated", "protocol", 0)}


class BrokenStore(EventStore):
    """The stage's store, whose next append of a kind fails."""

    def __init__(self, stage: Stage, kind: type, error: Exception) -> None:
        self.__dict__.update(stage.store.__dict__)
        self._kind = kind
        self._error = error

    def append_all(self, appends, *, at, actor, cause):  # type: ignore[no-untyped-def]
        if any(isinstance(event, self._kind) for append in appends for event in append.events):
            raise self._error
        return super().append_all(appends, at=at, actor=actor, cause=cause)


@pytest.mark.parametrize("error", [StoreUnavailable("event store", "locked"), StorageFull("/events.db", "full")])
def test_a_batch_that_cannot_be_recorded_stops_the_activation_and_the_next_one_goes_on(
    stage: Stage, error: Exception
) -> None:
    run = stage.request(USERS, GROUPS)
    whole, stage.store = stage.store, BrokenStore(stage, BatchRecorded, error)
    collector = ScriptedCollector({USERS: [batch(None, "1")]})

    with pytest.raises(type(error)) as raised:
        stage.carry_out(run, collector)
    assert raised.value is error
    assert collector.forgotten == [(CONTOSO, run, 1)]
    stage.store = whole
    assert not of_kind(stage.collection(USERS), BatchRecorded)
    collector.scripts[USERS] = [batch(None, "1", end=Complete())]
    assert stage.carry_out(run, collector) == "finished"
    assert stage.outcomes(run)[USERS] == ("complete", None, 10)


def test_what_a_log_lost_while_nobody_collected_is_said_once(stage: Stage) -> None:
    async def read(work: Work) -> Step:
        assert work.assignment.window is not None
        return batch(None, "1", end=Complete(watermark=work.assignment.window[1]))

    outcomes = []
    for days in (0, 45, 1):
        stage.clock.seconds += timedelta(days=days).total_seconds()
        run = stage.request(SIGN_INS)
        stage.carry_out(run, ScriptedCollector({SIGN_INS: [read]}))
        outcomes += stage.run(run).outcomes

    lost = [event.lost for event in stage.collection(SIGN_INS) if isinstance(event, CollectionStarted)]
    assert lost == [msgspec.UNSET, (BEGIN, BEGIN + timedelta(days=15)), msgspec.UNSET]
    assert [one.outcome for one in outcomes] == ["complete"] * 3
    assert [one.reason for one in outcomes] == [None, "gap", None]
    assert outcomes[1].detail == (
        "Nothing is collected of 2026-11-22 20:30 to 2026-12-07 20:30 UTC: the last complete collection ended before, "
        "and this log is read 30 days back."
    )


def test_a_run_of_a_tenant_that_was_suspended_or_offboarded_meanwhile_fails(stage: Stage) -> None:
    suspended, offboarded = stage.request(USERS), stage.request(USERS, tenant=FABRIKAM)
    stage.append(tenant_stream(CONTOSO), TenantSuspended(reason="unpaid"))
    stage.append(tenant_stream(FABRIKAM), TenantOffboarded(reason="left"))
    collector = ScriptedCollector()

    assert stage.carry_out(suspended, collector) == stage.carry_out(offboarded, collector) == "failed"

    assert [stage.run(run).reason for run in (suspended, offboarded)] == ["not-allowed", "not-allowed"]
    assert "unpaid" in stage.run(suspended).detail
    assert not stage.vault.released
    assert not collector.works


def test_a_run_with_a_dataset_that_is_in_no_catalog_fails(stage: Stage) -> None:
    run = stage.request(USERS, "entra.nothing")

    assert stage.carry_out(run, ScriptedCollector()) == "failed"
    assert "entra.nothing" in stage.run(run).detail


def test_a_run_that_has_ended_is_not_activated_again(stage: Stage) -> None:
    run = stage.request(USERS)
    stage.carry_out(run, ScriptedCollector())
    before = stage.store.last_position()

    assert stage.carry_out(run, ScriptedCollector()) == "finished"
    assert stage.store.last_position() == before


def test_a_cancelled_run_stops_before_its_next_batch_counts(stage: Stage) -> None:
    run = stage.request(USERS)

    async def cancelled(work: Work) -> Step:
        stage.append(run_stream(run), RunCancelled(reason="by hand"))
        return batch("1", "2")

    collector = ScriptedCollector({USERS: [batch(None, "1"), cancelled]})

    assert stage.carry_out(run, collector) == "cancelled"
    assert len(of_kind(stage.collection(USERS), BatchRecorded)) == 1
    assert collector.forgotten == [(CONTOSO, run, 1)]


def test_a_cancelled_run_does_not_wait_for_its_collectors(stage: Stage) -> None:
    run = stage.request(USERS)

    async def endless(work: Work) -> Step:
        stage.append(run_stream(run), RunCancelled(reason="by hand"))
        await asyncio.Event().wait()
        raise AssertionError("never")

    assert stage.carry_out(run, ScriptedCollector({USERS: [endless]})) == "cancelled"


def test_the_next_run_closes_what_a_cancelled_one_left_open(stage: Stage) -> None:
    run = stage.request(USERS)

    async def cancelled(work: Work) -> Step:
        stage.append(run_stream(run), RunCancelled(reason="by hand"))
        raise CollectorLost("graph-0", "ActorDiedError")

    stage.carry_out(run, ScriptedCollector({USERS: [batch(None, "1"), cancelled]}))
    later = stage.request(USERS)
    stage.carry_out(later, ScriptedCollector({USERS: [batch(None, "7", 3, Complete())]}))

    assert stage.outcomes(later)[USERS] == ("complete", None, 3)


def test_an_activation_that_was_overtaken_ends_and_the_later_one_goes_on(stage: Stage) -> None:
    run = stage.request(USERS)
    later = ScriptedCollector({USERS: [batch("1", "2", end=Complete())]})

    async def overtaken(work: Work) -> Step:
        assert await stage.core().carry_out(run, everywhere(later)) == "finished"
        return batch("1", "2", end=Complete())

    former = ScriptedCollector({USERS: [batch(None, "1"), overtaken]})

    assert stage.carry_out(run, former) == "finished"

    assert stage.outcomes(run)[USERS] == ("complete", None, 20)
    assert len(of_kind(stage.collection(USERS), BatchRecorded)) == 2
    assert [work.epoch for work in (*former.works, *later.works)] == [1, 1, 2]
    assert [type(event) for event in stage.events(run_stream(run))] == [
        RunRequested,
        RunStarted,
        RunResumed,
        RunFinished,
    ]


def test_a_collector_that_serves_a_later_epoch_ends_the_activation(stage: Stage) -> None:
    run = stage.request(USERS)

    assert stage.carry_out(run, ScriptedCollector({USERS: [ActivationLost(CONTOSO, 1)]})) == "started"


def test_a_batch_that_a_former_activation_counted_already_counts_once(stage: Stage) -> None:
    run = stage.request(USERS)
    first = batch(None, "1").batch
    assert first is not None

    async def counted_meanwhile(work: Work) -> Step:
        recorded = BatchRecorded(
            run=run,
            key=first.key,
            data_key=first.data_key,
            rows=first.rows,
            row_bytes=first.row_bytes,
            stored_bytes=first.stored_bytes,
            digest=first.digest,
            requests=first.requests,
            after=first.after,
            cursor=first.cursor,
        )
        stage.append(collection(USERS), recorded)
        return batch(None, "1")

    collector = ScriptedCollector({USERS: [counted_meanwhile, batch("1", "2", end=Complete())]})

    assert stage.carry_out(run, collector) == "finished"
    assert stage.outcomes(run)[USERS] == ("complete", None, 20)


def test_an_end_that_a_former_activation_recorded_already_stands(stage: Stage) -> None:
    run = stage.request(USERS)

    async def ended_meanwhile(work: Work) -> Step:
        completed = CollectionCompleted(run=run, rows=0, requests=1, restarts=0, seconds=0.1, delta_link="theirs")
        stage.append(collection(USERS), completed)
        return ends(Truncated("unavailable", "late"))

    assert stage.carry_out(run, ScriptedCollector({USERS: [ended_meanwhile]})) == "finished"
    assert stage.outcomes(run)[USERS] == ("complete", None, 0)


def test_a_dataset_that_another_run_began_anew_is_left_to_it(stage: Stage) -> None:
    run, other = stage.request(USERS), stage.request(USERS)

    async def begun_anew(work: Work) -> Step:
        closed = CollectionTruncated(
            run=run, reason="run-ended", detail="", cursor=None, rows=0, requests=0, seconds=0.0
        )
        stage.append(collection(USERS), closed, CollectionStarted(run=other, mode="full"))
        return batch(None, "1")

    collector = ScriptedCollector({USERS: [begun_anew]})

    assert stage.carry_out(run, collector) == "finished"
    assert stage.outcomes(run)[USERS] == ("truncated", "run-ended", 0)
    assert len(collector.works) == 1


def test_one_core_serves_one_tenant_at_a_time(stage: Stage) -> None:
    runs = stage.request(USERS), stage.request(USERS, tenant=FABRIKAM)
    serving: list[str] = []

    async def alone(work: Work) -> Step:
        serving.append(work.assignment.tenant)
        for _ in range(20):
            await asyncio.sleep(0)
        assert serving.pop() == work.assignment.tenant
        assert not serving
        return ends(Complete())

    collector = ScriptedCollector({USERS: [alone, alone]})
    core = stage.core()

    async def both() -> list[str]:
        return await asyncio.gather(*(core.carry_out(run, everywhere(collector)) for run in runs))

    assert play(both()) == ["finished", "finished"]


def test_a_run_that_is_given_twice_is_carried_out_once(stage: Stage) -> None:
    run = stage.request(USERS)
    core, collector = stage.core(), ScriptedCollector()

    async def twice() -> list[str]:
        return await asyncio.gather(*(core.carry_out(run, everywhere(collector)) for _ in range(2)))

    assert play(twice()) == ["finished", "finished"]
    assert len(collector.works) == 1


def test_a_run_that_nobody_requested_is_unknown(stage: Stage) -> None:
    with pytest.raises(Unknown):
        stage.carry_out(RunId("20261122T203000-ffffffff"), ScriptedCollector())


def token_of(key: TransitKey, work: Work) -> bytes:
    with key.open(work.token, token_context(work.assignment)) as secret:
        return secret.reveal()


def collection(name: str) -> Stream:
    return collection_stream(CONTOSO, Dataset(name))
