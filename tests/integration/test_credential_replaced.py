"""`tenantry credential set` killed at each step: the next command finds a credential that is recorded as it is stored,
the former one or a new one that has signed in.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from estate import Estate
from office import Office, Said, at_work, collected, furnished, kinds

from cli.replacement import DIRECTORY, Former, interrupted, keeping, settled
from cli.sealing import held_credential
from cli.turn import turn
from crypto.credential import AppSecret
from crypto.stores import credential_name
from domain.credential import Credential
from domain.errors import NotAllowed
from domain.ids import ENTRA, TenantId
from simulator.world import Tenant

KILLED = """
import os, signal, sys
from cli.main import main
place, when, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def counted(frame, event, _):
    global left
    if event == when and f"{frame.f_globals.get('__name__')}:{frame.f_code.co_qualname}" == place:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.setprofile(counted)
sys.exit(main(sys.argv[4:]))
"""
"""Dies at the n-th time that a function is called or returns."""

KEPT = ("cli.replacement:_write", "return", 1)
STORED = ("crypto.filestore:FileSecretStore.put", "return", 1)
RECORDED = ("cli.state:State.decide", "return", 1)
ASKED = ("vault.client:Keyholder.release", "call", 1)
RELEASED = ("vault.client:Keyholder.release", "return", 1)
JUDGED = ("actors.verification:Verifying._record", "return", 1)
RESTORED = ("cli.state:State.decide", "return", 2)
PUT_BACK = ("crypto.filestore:FileSecretStore.put", "return", 2)
ENDED = ("cli.replacement:ended", "return", 1)
Step = tuple[str, str, int]


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    with furnished(tmp_path_factory.mktemp("office")) as made:
        yield made


@pytest.fixture
def office(
    estate: Estate, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Office:
    return at_work(estate, tmp_path, capsys, monkeypatch)


def set_words(tenant: Tenant, credential: AppSecret) -> list[str]:
    return ["credential", "set", tenant.id, "--kind", "app-secret", "--client-id", credential.client_id]


def killed(office: Office, step: Step, tenant: Tenant, credential: AppSecret, *options: str) -> None:
    place, when, times = step
    words = [*set_words(tenant, credential), *options]
    ended = subprocess.run(  # noqa: S603 - our own program
        [
            sys.executable,
            "-c",
            KILLED,
            place,
            when,
            str(times),
            *words,
            "--state",
            str(office.estate.directory),
            "--config",
            str(office.config),
        ],
        input=credential.secret.encode(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def wrong(office: Office, tenant: Tenant) -> AppSecret:
    return AppSecret(client_id=office.new_secret(tenant).client_id, secret="not the right one")


def stands(office: Office, tenant: Tenant) -> Credential:
    """The credential, once it is sure that it is stored as it is recorded and that nothing is kept any more."""
    state = office.estate.state
    found = held_credential(state, TenantId(tenant.id), ENTRA).state
    assert found is not None
    assert hashlib.sha256(stored(office, tenant)).hexdigest() == found.digest
    assert not list((state.directory / DIRECTORY).iterdir())
    return found


def stored(office: Office, tenant: Tenant) -> bytes:
    return office.estate.state.secrets.get(credential_name(TenantId(tenant.id), ENTRA))


def told(said: Said) -> str:
    assert said.err.count("\n") == 1, said
    return said.err


@pytest.mark.parametrize(
    "step", [KEPT, STORED, RECORDED, ASKED, RELEASED], ids=["kept", "stored", "recorded", "asked", "released"]
)
def test_killed_before_the_new_one_has_signed_in_the_former_one_stays(office: Office, step: Step) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    former = stands_before(office, tenant)

    killed(office, step, tenant, office.new_secret(tenant))
    said = office.type("credential", "verify", tenant.id)

    assert said.code == 0, said
    assert "was stopped halfway. The former one stays in use." in told(said)
    found = stands(office, tenant)
    assert (found.identity, found.digest, found.state) == (former.identity, former.digest, "verified")
    assert office.type("credential", "verify", tenant.id).err == ""


def stands_before(office: Office, tenant: Tenant) -> Credential:
    found = held_credential(office.estate.state, TenantId(tenant.id), ENTRA).state
    assert found is not None
    return found


@pytest.mark.parametrize("step", [JUDGED, ENDED], ids=["verified", "ended"])
def test_killed_after_the_new_one_has_signed_in_it_stays(office: Office, step: Step) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    new = office.new_secret(tenant)

    killed(office, step, tenant, new)
    said = office.type("credential", "verify", tenant.id)

    assert (said.code, said.err) == (0, "")
    assert stands(office, tenant).identity == new.client_id


@pytest.mark.parametrize(
    "step", [JUDGED, RESTORED, PUT_BACK, ENDED], ids=["rejected", "restored on record", "put back", "ended"]
)
def test_killed_after_the_new_one_was_refused_the_former_one_is_back(office: Office, step: Step) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    former = stands_before(office, tenant)

    killed(office, step, tenant, wrong(office, tenant))
    said = office.type("credential", "verify", tenant.id)

    assert said.code == 0, said
    assert "The former one stays in use." in told(said)
    assert stands(office, tenant).digest == former.digest
    assert kinds(office.events(tenant))[:5] == ["Sealed", "Rotated", "Released", "Rejected", "Rotated"]


@pytest.mark.parametrize("step", [KEPT, STORED, RECORDED], ids=["kept", "stored", "recorded"])
def test_one_that_is_not_tried_is_there_once_it_is_recorded(office: Office, step: Step) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    former, new = stands_before(office, tenant), office.new_secret(tenant)

    killed(office, step, tenant, new, "--no-verify")
    said = office.type("credential", "verify", tenant.id)

    assert said.code == 0, said
    assert stands(office, tenant).identity == (new.client_id if step is RECORDED else former.identity)


def test_a_first_one_that_was_not_recorded_is_no_credential(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    assert office.type("credential", "revoke", tenant.id, "--reason", "left").code == 0

    killed(office, STORED, tenant, office.new_secret(tenant))
    with turn(office.estate.state):
        pass

    assert office.estate.state.secrets.names(f"credential-{tenant.id}") == []
    assert "was stopped halfway" in office.capsys.readouterr().err


def test_until_it_is_undone_nothing_is_released_that_is_not_on_record(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    killed(office, STORED, tenant, office.new_secret(tenant))

    run = collected(office, tenant, "entra.organization")

    assert run.state != "finished"
    assert office.asked(tenant) == 0
    assert office.type("credential", "verify", tenant.id).code == 0
    assert collected(office, tenant, "entra.organization").state == "finished"


def test_the_next_set_begins_where_the_killed_one_did(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    former, new = stands_before(office, tenant), office.new_secret(tenant)
    killed(office, RELEASED, tenant, wrong(office, tenant))

    refused = office.set(tenant, wrong(office, tenant))
    assert refused.code == 1
    assert "The former one stays in use." in refused.err
    assert stands(office, tenant).digest == former.digest
    killed(office, STORED, tenant, wrong(office, tenant))
    done = office.set(tenant, new, "--no-verify")

    assert done.code == 0, done
    assert stands(office, tenant).identity == new.client_id


def test_the_doctor_says_so_and_what_to_do_and_its_sign_in_undoes_it(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-certificate")
    killed(office, RECORDED, tenant, office.new_secret(tenant))

    first = office.type("doctor", tenant.id, "--json")
    second = office.type("doctor", tenant.id, "--json")

    found = [one for one in first.json if one["outcome"] == "warning"]
    assert [one["step"] for one in found] == ["state directory"]
    assert "was stopped halfway" in found[0]["detail"]
    assert f"`tenantry credential verify {tenant.id}`" in found[0]["remedy"]
    assert (first.code, second.code, second.err) == (3, 0, "")
    assert stands(office, tenant).kind == "app-certificate"


def test_a_collect_undoes_it_before_anything_is_asked_for(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    former = stands_before(office, tenant)
    killed(office, RECORDED, tenant, wrong(office, tenant))

    with turn(office.estate.state):
        assert stands(office, tenant).digest == former.digest
    assert "was stopped halfway" in office.capsys.readouterr().err


def test_who_is_at_work_is_left_alone(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    state, whose = office.estate.state, TenantId(tenant.id)

    with keeping(state, whose, ENTRA, "0" * 64, tried=True):
        assert interrupted(state) == []
        assert settled(state) == []
        with (
            pytest.raises(NotAllowed, match="is replacing the entra credential"),
            keeping(state, whose, ENTRA, "1" * 64, tried=False),
        ):
            pass
        assert office.set(tenant, office.new_secret(tenant), "--no-verify").code == 2

    assert stands(office, tenant).state == "sealed"


def test_a_resealing_in_between_does_not_make_the_new_one_count(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    former = stands_before(office, tenant)
    killed(office, RECORDED, tenant, wrong(office, tenant))
    assert office.type("vault", "rotate").code == 0

    said = office.type("credential", "verify", tenant.id)

    assert said.code == 0, said
    assert stands(office, tenant).digest == former.digest


def test_what_was_sealed_to_a_destroyed_key_is_not_put_back(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    former, new = stands_before(office, tenant), office.new_secret(tenant)
    killed(office, RECORDED, tenant, new)
    assert office.type("vault", "rotate").code == 0
    assert office.type("vault", "retire", former.vault_key).code == 0
    assert office.type("vault", "destroy", former.vault_key, "--yes").code == 0

    said = office.type("credential", "verify", tenant.id)

    assert "vault key has been destroyed" in told(said)
    assert (said.code, stands(office, tenant).identity) == (0, new.client_id)


def test_one_that_was_revoked_meanwhile_does_not_come_back(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    killed(office, RECORDED, tenant, office.new_secret(tenant))

    assert office.type("credential", "revoke", tenant.id, "--reason", "left").code == 0
    with turn(office.estate.state):
        pass

    assert stands_before(office, tenant).state == "revoked"
    assert office.estate.state.secrets.names(f"credential-{tenant.id}") == []
    assert not list((office.estate.directory / DIRECTORY).iterdir())


@pytest.mark.parametrize(
    "words", [["credential", "revoke"], ["tenant", "offboard", "--yes"]], ids=["revoked", "offboarded"]
)
def test_what_was_kept_of_a_credential_goes_with_it(office: Office, words: list[str]) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    killed(office, RECORDED, tenant, office.new_secret(tenant))
    assert interrupted(office.estate.state) == [(tenant.id, ENTRA)]

    said = office.type(*words, tenant.id, "--reason", "left")

    assert said.code == 0, said
    assert not list((office.estate.directory / DIRECTORY).iterdir())


def test_an_envelope_that_no_event_names_is_not_put_back_whatever_the_file_says(office: Office) -> None:
    """A file made by somebody who may write the state directory and has another tenant's envelope."""
    tenant, other = (office.estate.add_tenant(5, "app-secret") for _ in range(2))
    before, standing = stored(office, tenant), stands_before(office, tenant)
    directory = office.estate.directory / DIRECTORY
    for digest in (standing.digest, "0" * 64):
        planted = Former(
            tenant=TenantId(tenant.id),
            slot=ENTRA,
            envelope=stored(office, other).decode(),
            digest=digest,
            tried=True,
        )
        (directory / f"{tenant.id}-entra.json").write_bytes(msgspec.json.encode(planted))

        settled(office.estate.state)

        assert stored(office, tenant) == before
        assert stands(office, tenant) == standing


def test_an_envelope_that_no_event_names_is_not_put_back_where_none_is_stored(office: Office) -> None:
    tenant, other = (office.estate.add_tenant(5, "app-secret") for _ in range(2))
    state, whose = office.estate.state, TenantId(tenant.id)
    planted = Former(tenant=whose, slot=ENTRA, envelope=stored(office, other).decode(), digest="0" * 64, tried=True)
    (office.estate.directory / DIRECTORY / f"{tenant.id}-entra.json").write_bytes(msgspec.json.encode(planted))
    state.secrets.delete(credential_name(whose, ENTRA))

    settled(state)

    assert state.secrets.names(credential_name(whose, ENTRA)) == []
    assert interrupted(state) == []


@pytest.mark.parametrize("content", [b"", b'{"tenant": "', b"no json", b"\xff"])
def test_what_was_not_written_to_its_end_had_changed_nothing(office: Office, content: bytes) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    (office.estate.directory / DIRECTORY / f"{tenant.id}-entra.json").write_bytes(content)

    assert interrupted(office.estate.state) == []
    assert settled(office.estate.state) == []
    assert stands(office, tenant).state == "sealed"


def test_what_is_kept_is_ciphertext_and_its_owner_s_alone(office: Office) -> None:
    tenant = office.estate.add_tenant(5, "app-secret")
    new = office.new_secret(tenant)
    killed(office, RECORDED, tenant, new)

    (file,) = (office.estate.directory / DIRECTORY).iterdir()

    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    content = file.read_text()
    assert not [secret for secret in (*office.estate.planted, new.secret) if secret in content]
    assert os.listdir(file.parent) == [file.name]
    settled(office.estate.state)
