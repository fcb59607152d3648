"""Every refusal of the command line: one line that says what, why and what to do, its code, and nothing half done."""

from __future__ import annotations

import hashlib
import json
import socket
import sqlite3
from collections.abc import Callable
from secrets import token_hex

import pytest
from desk import CLIENT, CONTOSO, OFFBOARDED, RUN, STRANGER, SUSPENDED, Desk, one_line

from cli.demo import MARK
from cli.sealing import parse_sealed, placed, recordable
from crypto.stores import credential_name
from domain.errors import NotAllowed
from domain.events import CredentialRevoked
from domain.ids import ENTRA, credential_stream, tenant_id

HOSTS = "".join(
    f'{name} = "https://localhost:1"\n' for name in ("login", "graph", "exchange", "compliance", "activity")
)


WRONG: dict[str, tuple[list[str], str]] = {
    "a malformed tenant id": (["tenant", "show", "contoso"], "'contoso' is not a tenant id"),
    "an unknown tenant": (["tenant", "show", STRANGER], f"no tenant '{STRANGER}'"),
    "a malformed domain": (["tenant", "add", STRANGER, "--domain", "contoso"], "'contoso' is not a domain"),
    "an unknown cloud": (["tenant", "add", STRANGER, "--domain", "a.com", "--cloud", "moon"], "no cloud 'moon'"),
    "a tenant added twice": (["tenant", "add", CONTOSO, "--domain", "contoso.com"], "already exists"),
    "a port that is none": (
        ["tenant", "add", STRANGER, "--domain", "a.com", "--exchange-server", "mail.a.com:0"],
        "'0' is not a port",
    ),
    "half of a dataset's name": (["collect", CONTOSO, "-d", "users"], "Did you mean entra.users?"),
    "an unknown dataset": (["collect", CONTOSO, "-d", "nosuch"], "There are: audit.sign-ins, entra.group-owners,"),
    "a mistyped dataset in a plan": (["tenant", "plan", CONTOSO, "-d", "entra.user"], "Did you mean entra.users"),
    "a mistyped dataset in the plan of a new tenant": (
        ["tenant", "add", STRANGER, "--domain", "a.com", "--plan", "entra.user"],
        "Did you mean entra.users",
    ),
    "a new tenant's cadence of no time": (
        ["tenant", "add", STRANGER, "--domain", "a.com", "--every", "0"],
        "is not a cadence",
    ),
    "a new tenant's cadence of seconds": (
        ["tenant", "add", STRANGER, "--domain", "a.com", "--every", "0.01"],
        "a cadence of 36 s is out of range",
    ),
    "a cadence of no time": (["tenant", "plan", CONTOSO, "--every", "0"], "is not a cadence"),
    "a malformed run id": (["run", "show", "yesterday"], "'yesterday' is not a run id"),
    "an unknown run": (["run", "show", RUN], f"no run '{RUN}'"),
    "an unknown run to cancel": (["run", "cancel", RUN], f"no run '{RUN}'"),
    "a malformed time": (["audit", "replay", "--as-of", "yesterday"], "'yesterday' is not a time"),
    "a malformed time of a query": (["data", "sql", "select 1", "--as-of", "2026-13-01"], "is not a time"),
    "a time to come": (["data", "sql", "select 1", "--as-of", "2999-01-01"], "is not a time in the past"),
    "a time to come of a replay": (["audit", "replay", "--as-of", "2999-01-01"], "is not a time in the past"),
    "a position to come": (["audit", "replay", "--as-of", "99999"], "is not a position of the ledger"),
    "the rows of an offboarded tenant": (["data", "sql", "select 1", "--tenant", OFFBOARDED], "is offboarded"),
    "a malformed credential": (["audit", "log", "--credential", f"{CONTOSO}/shoe"], "credential slot"),
    "a second init": (["init"], "already exists"),
    "nothing to collect": (["collect"], "which tenants"),
    "all tenants and some": (["collect", CONTOSO, "--all"], "--all"),
    "a suspended tenant": (["collect", SUSPENDED], "suspended (contract)"),
    "an offboarded tenant": (["collect", OFFBOARDED], "offboarded"),
    "a credential of an offboarded tenant": (["credential", "put", "offboarded.json"], "offboarded"),
    "a credential to revoke that is not there": (["credential", "revoke", CONTOSO, "--reason", "x"], "there is none"),
    "an unknown kind": (["credential", "set", CONTOSO, "--kind", "password"], "'password' is not a kind"),
    "a user name that is missing": (["credential", "set", CONTOSO, "--kind", "service-account"], "--username"),
    "a client id that is missing": (["credential", "set", CONTOSO, "--kind", "app-secret"], "--client-id"),
    "a public key that is not there": (
        ["credential", "seal", "--public-key", "no.jwks", "--tenant", CONTOSO, "--kind", "app-secret"],
        "no.jwks",
    ),
    "an envelope that is not there": (["credential", "put", "no.json"], "No such file"),
    "SQL that is none": (["data", "sql", "selec 1"], "syntax error"),
    "SQL that writes": (["data", "sql", "drop table entra_users"], "SELECT"),
    "SQL that reads files": (["data", "sql", "select * from '/etc/passwd'"], "/etc/passwd"),
    "an unknown column": (["data", "sql", "select nope from entra_users"], "nope"),
    "an unknown table": (["data", "sql", "select * from unicorns"], "no table 'unicorns'"),
    "an unknown format": (["data", "export", "entra.users", "--format", "xml", "--out", "x"], "'xml' is not a format"),
    "a mistyped dataset to export": (["data", "export", "entra.user", "--out", "x"], "Did you mean entra.users"),
    "a file to export to that is there": (["data", "export", "entra.users", "--out", "key.jwks"], "--overwrite"),
    "an existing directory to export to": (["data", "export", "entra.users", "--out", ".tenantry"], "directory"),
    "a directory to export to that is missing": (["data", "export", "entra.users", "--out", "no/x"], "No such file"),
    "a file that is a directory": (["vault", "public-key", "--out", "."], "directory"),
    "an export to standard output": (["data", "export", "entra.users", "--out", "-"], "Name a file"),
    "a file of another format than is asked for": (
        ["data", "export", "entra.users", "--format", "jsonl", "--out", "users.csv"],
        "its name says csv",
    ),
    "a witness that is no checkpoint": (["audit", "verify", "--witness", "key.jwks"], "that is no checkpoint"),
    "a witness to write over": (["audit", "checkpoint", "--out", "key.jwks"], "--overwrite"),
    "a witness that is not there": (["audit", "verify", "--witness", "no.txt"], "no.txt"),
    "a configuration that is not there": (["config", "show", "--config", "no.toml"], "no.toml"),
    "an uninitialised directory": (["tenant", "list", "--state", "elsewhere"], "is not initialised"),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_is_wrong_usage_to_give(case: str, desk: Desk) -> None:
    words, named = WRONG[case]
    if "offboarded.json" in words:
        desk.seal("offboarded.json", tenant=OFFBOARDED)
    position = desk.opened().store.last_position()
    assert named in desk.refused(2, *words)
    if words[0] != "data":
        assert desk.opened().store.last_position() == position, "a query may release a data key; others record nothing"
    assert not list(desk.directory.glob("**/.*-*")), "something half done was left behind"


REFUSED_AS_JSON: dict[str, tuple[list[str], dict[str, object]]] = {
    "by a command": (
        ["collect", SUSPENDED],
        {"error": "Cannot collect", "why": f"tenant {SUSPENDED} is suspended (contract)", "exit": 2},
    ),
    "for what there is not": (
        ["collect", CONTOSO, "-d", "users"],
        {"error": "There is no dataset 'users'", "why": None, "do": "Did you mean entra.users?", "exit": 2},
    ),
    "for what is malformed": (
        ["tenant", "show", "contoso"],
        {"error": "'contoso' is not a tenant id", "do": None, "exit": 2},
    ),
    "before there is a command": (
        ["tenant", "shw"],
        {"why": None, "do": "See `tenantry tenant --help`.", "exit": 2},
    ),
}


@pytest.mark.parametrize("case", REFUSED_AS_JSON)
def test_with_json_a_refusal_is_one_object_on_standard_error(case: str, desk: Desk) -> None:
    words, expected = REFUSED_AS_JSON[case]
    said = desk.type(*words, "--json")
    assert (said.code, said.out) == (expected["exit"], "")
    assert said.err.count("\n") == 1
    refusal = json.loads(said.err)
    assert [*refusal] == ["error", "why", "do", "exit"]
    assert {**refusal, **expected} == refusal


def test_an_export_replaces_a_file_when_it_is_told_to(desk: Desk) -> None:
    (desk.directory / "users.csv").write_text("before")
    words = ["data", "export", "entra.users", "--format", "csv", "--out", "users.csv"]
    assert "there is such a file" in desk.refused(2, *words)
    assert (desk.directory / "users.csv").read_text() == "before"
    assert desk.type(*words, "--overwrite").code == 3
    assert (desk.directory / "users.csv").read_text() != "before"


def test_an_export_has_the_format_that_its_file_is_named_for(desk: Desk) -> None:
    for name, begin in (("users.csv", b"id,"), ("users.jsonl", b""), ("users", b"PAR1")):
        desk.type("data", "export", "entra.users", "--out", name)
        assert (desk.directory / name).read_bytes()[: len(begin) or None] == begin


def test_a_query_names_whose_rows_it_lacks_and_mentions_the_offboarded(desk: Desk) -> None:
    said = desk.type("data", "sql", "select count(*) n from entra_users")
    assert (said.code, said.out.split()) == (3, ["n", "0"])
    assert f"Offboarded, so without rows: contoso.com ({OFFBOARDED})." in said.err
    for tenant in (CONTOSO, SUSPENDED):
        assert f"Rows of entra.users are missing for contoso.com ({tenant}): It was never collected." in said.err
    desk.type("tenant", "offboard", CONTOSO, "--reason", "left", "--yes")
    desk.type("tenant", "offboard", SUSPENDED, "--reason", "left", "--yes")
    assert desk.type("data", "sql", "select count(*) n from entra_users").code == 0


def test_what_uses_no_state_directory_takes_none_and_reads_no_settings(desk: Desk) -> None:
    (desk.directory / "tenantry.toml").write_text("nonsense")
    words = ["credential", "seal", "--public-key", "key.jwks", "--tenant", CONTOSO, "--kind", "app-secret"]
    secret = token_hex(16).encode()
    assert desk.type(*words, "--client-id", CLIENT, stdin=secret).code == 0
    (desk.directory / "tenantry.toml").unlink()
    assert "--state" in desk.refused(2, *words, "--client-id", CLIENT, "--state", "elsewhere", stdin=secret)


def test_collecting_everything_needs_a_tenant(desk: Desk) -> None:
    assert desk.type("tenant", "suspend", CONTOSO, "--reason", "pause").code == 0
    assert "Register one" in desk.refused(2, "collect", "--all")


SECRETS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "Cannot read the client secret from standard input: nothing came. Pipe it in,"),
    "an empty line": (b"\n", "from standard input: nothing came"),
    "too long": (b"x" * 1025, "1 to 1024 characters"),
    "far too long": (b"x" * 200_000, "at most 64 KiB"),
    "not text": (b"\xff\xfe", "UTF-8"),
    "with control characters": (b"a\x00b", "control characters"),
}


@pytest.mark.parametrize("case", SECRETS)
def test_a_secret_is_refused_that_is(case: str, desk: Desk) -> None:
    stdin, named = SECRETS[case]
    said = desk.refused(2, "credential", "set", CONTOSO, "--kind", "app-secret", "--client-id", CLIENT, stdin=stdin)
    assert named in said
    assert desk.opened().store.read(credential_stream(tenant_id(CONTOSO), ENTRA)) == ()


def test_a_certificate_needs_its_key(desk: Desk) -> None:
    words = ["credential", "set", CONTOSO, "--kind", "app-certificate", "--client-id", CLIENT]
    assert "nothing came. Give --certificate" in desk.refused(2, *words)
    alone = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert "PRIVATE KEY" in desk.refused(2, *words, stdin=alone)
    assert "PEM certificate" in desk.refused(
        2, *words, stdin=alone + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )


def test_an_envelope_sealed_to_another_key_is_not_stored(desk: Desk) -> None:
    desk.seal("sealed.json", key="other.jwks")
    assert "it is sealed to key" in desk.refused(2, "credential", "put", "sealed.json")


def edited(change: Callable[[dict[str, object]], object]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        members = json.loads(text)
        change(members)
        return json.dumps(members)

    return edit


def altered(envelope: object) -> str:
    """In one character of its ciphertext."""
    head, _, tag = str(envelope).rpartition(".")
    return f"{head[:-9]}{'A' if head[-9] != 'A' else 'B'}{head[-8:]}.{tag}"


def as_if_whole(envelope: str) -> dict[str, str]:
    return {"envelope": envelope, "digest": hashlib.sha256(envelope.encode()).hexdigest()}


SPOILT: dict[str, tuple[Callable[[str], str], int, str]] = {
    "of another tenant": (edited(lambda one: one.update(tenant=SUSPENDED)), 2, "tenant and slot"),
    "of another slot": (edited(lambda one: one.update(slot="exchange-server")), 2, "tenant and slot"),
    "cut inside the envelope": (edited(lambda one: one.update(envelope=str(one["envelope"])[:-40])), 2, "on the way"),
    "changed inside the envelope": (edited(lambda one: one.update(envelope=altered(one["envelope"]))), 2, "on the way"),
    "cut with another digest": (edited(lambda one: one.update(as_if_whole(str(one["envelope"])[:-40]))), 1, "rejected"),
    "without a digest": (edited(lambda one: one.pop("digest")), 2, "`digest`"),
    "with the digest of another": (edited(lambda one: one.update(digest="0" * 64)), 2, "on the way"),
    "cut off": (lambda text: text[:200], 2, "Cannot read the sealed credential"),
    "of an unknown kind": (edited(lambda one: one.update(kind="password")), 2, "password"),
    "with an identity that steers the terminal": (edited(lambda one: one.update(identity="\x1b[2J")), 2, "printable"),
    "with an expiry of no time zone": (edited(lambda one: one.update(expires="2027-03-01T00:00:00")), 2, "timezone"),
    "with an expiry before all years": (
        edited(lambda one: one.update(expires="0001-01-01T00:00:00+14:00")),
        2,
        "time of expiry",
    ),
    "with an expiry after all years": (
        edited(lambda one: one.update(expires="9999-12-31T23:59:59-14:00")),
        2,
        "time of expiry",
    ),
    "far too long": (lambda text: text + " " * 70_000, 2, "64 KiB"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_sealed_credential_is_refused_that_is(case: str, desk: Desk) -> None:
    spoil, code, named = SPOILT[case]
    file = desk.seal("sealed.json")
    file.write_text(spoil(file.read_text()))
    assert named in desk.refused(code, "credential", "put", "sealed.json")
    assert desk.opened().secrets.names("credential-") == []


def test_a_credential_that_cannot_be_recorded_leaves_the_former_one_in_use(desk: Desk) -> None:
    first, second = desk.seal("first.json"), desk.seal("second.json")
    assert desk.type("credential", "put", str(first)).code == 0
    with sqlite3.connect(desk.state / "events.db") as connection:
        table = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchone()[0]
        connection.execute(f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'full'); END")
    connection.close()
    assert "The former one stays in use" in desk.refused(1, "credential", "put", str(second))
    state = desk.opened()
    stored = state.secrets.get(credential_name(tenant_id(CONTOSO), ENTRA))
    assert stored.decode() == json.loads(first.read_text())["envelope"]
    event = state.store.read(credential_stream(tenant_id(CONTOSO), ENTRA))[-1].event
    assert hashlib.sha256(stored).hexdigest() == getattr(event, "digest", "")


def test_a_first_credential_that_cannot_be_recorded_is_not_stored(desk: Desk) -> None:
    file = desk.seal("first.json")
    with sqlite3.connect(desk.state / "events.db") as connection:
        table = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchone()[0]
        connection.execute(f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'full'); END")
    connection.close()
    assert "Nothing was stored" in desk.refused(1, "credential", "put", str(file))
    assert desk.opened().secrets.names("credential-") == []


def test_nobody_is_sent_to_the_doctor_for_an_offboarded_tenant(desk: Desk) -> None:
    said = " ".join(desk.type("tenant", "show", OFFBOARDED).out.split())

    assert "Nothing happens to it any more." in said
    assert "doctor" not in said


def test_a_credential_that_is_stored_while_its_tenant_is_offboarded_does_not_stay(desk: Desk) -> None:
    file, state = desk.seal("first.json"), desk.opened()
    sealed = parse_sealed(file.read_text(), file)
    event = recordable(state, sealed)
    assert desk.type("tenant", "offboard", CONTOSO, "--reason", "left", "--yes").code == 0
    with pytest.raises(NotAllowed, match="is offboarded"):
        placed(state, sealed, event)
    assert state.secrets.names("credential-") == []
    assert isinstance(state.store.read(credential_stream(tenant_id(CONTOSO), ENTRA))[-1].event, CredentialRevoked)


@pytest.mark.parametrize("option", [[], ["--no-verify"]], ids=["tried", "unseen"])
def test_the_credential_that_is_stored_already_is_not_said_to_be_stored(desk: Desk, option: list[str]) -> None:
    file = str(desk.seal("first.json"))
    assert desk.type("credential", "put", file).out.startswith("Stored the app-secret")
    before = desk.opened().store.last_position()
    said = desk.type("credential", "put", file, *option)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("Nothing to change: this is the stored app-secret")
    assert json.loads(desk.type("credential", "put", file, "--json", *option).out)["changed"] is False
    assert desk.opened().store.last_position() == before


def test_credentials_are_listed_from_events_alone(desk: Desk) -> None:
    assert desk.type("credential", "put", str(desk.seal("first.json"))).code == 0
    for file in (desk.state / "secrets").glob("credential-*"):
        file.unlink()
    listed = json.loads(desk.type("credential", "list", "--json").out)
    assert [(one["tenant"], one["kind"], one["identity"], one["state"]) for one in listed] == [
        (CONTOSO, "app-secret", CLIENT, "sealed")
    ]


def test_a_state_directory_of_another_version_is_left_alone(desk: Desk) -> None:
    (desk.state / "version").write_text("99\n")
    assert "version 99" in desk.refused(1, "tenant", "list")


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("no PEM", "no PEM file")])
def test_a_cloud_needs_its_certificate_authorities(desk: Desk, content: str | None, why: str) -> None:
    (desk.directory / "tenantry.toml").write_text(f"[clouds.lab]\n{HOSTS}ca_bundle = 'ca.pem'\n")
    if content:
        (desk.directory / "ca.pem").write_text(content)
    assert desk.type("tenant", "add", STRANGER, "--domain", "lab.example", "--cloud", "lab").code == 0
    said = desk.refused(2, "collect", STRANGER)
    assert why in said
    assert "clouds.lab.ca_bundle" in said
    assert json.loads(desk.type("run", "list", "--json").out) == []


def test_a_verification_that_reaches_nobody_points_to_the_doctor(desk: Desk) -> None:
    (desk.directory / "tenantry.toml").write_text(f"[clouds.lab]\n{HOSTS}")
    assert desk.type("tenant", "add", STRANGER, "--domain", "lab.example", "--cloud", "lab").code == 0
    desk.seal("lab.json", tenant=STRANGER)
    assert desk.type("credential", "put", "lab.json").code == 0
    assert f"`tenantry doctor {STRANGER}` says whether" in desk.type("credential", "verify", STRANGER).out


def test_one_collect_at_a_time_works_in_a_state_directory(desk: Desk) -> None:
    import fcntl

    with (desk.state / "collect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another `tenantry collect`" in desk.refused(2, "collect", CONTOSO)
    assert json.loads(desk.type("run", "list", "--json").out) == []


def test_a_tenant_that_cannot_be_collected_as_asked_keeps_no_other_from_it(desk: Desk) -> None:
    (desk.directory / "tenantry.toml").write_text(f"[clouds.lab]\n{HOSTS}ca_bundle = 'gone.pem'\n")
    assert desk.type("tenant", "add", STRANGER, "--domain", "lab.example", "--cloud", "lab").code == 0

    said = desk.type("collect", "--all", "--detach")
    assert said.code == 3
    assert "lab.example is skipped. Cannot read the CA bundle" in one_line(said.err)
    assert [run["tenant"] for run in json.loads(desk.type("run", "list", "--json").out)] == [CONTOSO]

    assert "declares no Exchange Server" in desk.type("collect", "--all", "-d", "onprem.mailboxes", "--detach").err
    assert len(json.loads(desk.type("run", "list", "--json").out)) == 1


def test_what_is_requested_twice_is_one_run(desk: Desk) -> None:
    words = ["collect", CONTOSO, "-d", "entra.users", "--detach", "--json"]
    first = json.loads(desk.type(*words).out)
    assert [*first[0]] == ["run"]
    assert json.loads(desk.type(*words).out) == []
    assert len(json.loads(desk.type("run", "list", "--json").out)) == 1
    assert desk.type("run", "cancel", first[0]["run"]).code == 0
    assert "had ended already" in desk.type("run", "cancel", first[0]["run"]).out


@pytest.mark.parametrize("place", ["taken/state", "/proc/state"])
def test_init_makes_nothing_where_it_cannot(desk: Desk, place: str) -> None:
    (desk.directory / "taken").write_text("a file")
    assert "Cannot initialise" in desk.refused(2, "init", "--state", place)


def test_init_leaves_the_files_of_others_alone(desk: Desk) -> None:
    other = desk.directory / "other"
    other.mkdir(mode=0o755)
    (other / "notes.md").write_text("mine")
    assert "notes.md for example" in desk.refused(2, "init", "--state", "other")
    assert [path.name for path in other.iterdir()] == ["notes.md"]
    (other / "notes.md").rename(other / "tenantry.toml")
    (other / "tenantry.toml").write_text("")
    assert desk.type("init", "--state", "other").code == 0
    assert other.stat().st_mode & 0o777 == 0o700


def test_the_simulators_port_may_be_taken(desk: Desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = desk.refused(1, "simulate", "--tenants", "1", "--users", "10", "--port", port, "--directory", "sim")
    assert f"Port {port} is in use" in said


def test_the_demo_does_not_touch_the_directory_of_somebody_else(desk: Desk) -> None:
    assert "not an earlier demo's" in desk.refused(2, "demo", "--state", ".tenantry")
    assert (desk.state / "version").exists()
    project = desk.directory / "project"
    project.mkdir()
    (project / "demo.json").write_text("{}")
    assert "not an earlier demo's" in desk.refused(2, "demo", "--state", "project")
    (project / MARK).write_text("a file of this name that says something else")
    assert "not an earlier demo's" in desk.refused(2, "demo", "--state", "project")
    assert "Not a directory" in desk.refused(2, "demo", "--state", "project/demo.json")
    assert len([*project.iterdir()]) == 2
