"""What reaches a reader: bodies that are bounded and whole. What leaves for the login service: nothing but to it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from collectors.psrp import RemotePowerShell, mapped, plain
from collectors.signin import Elsewhere, LoginSession
from collectors.transport import decompressed, tls_context
from crypto.secret import Secret
from domain.errors import Malformed, NotAllowed, ProtocolViolation, SignInFailed, Throttled
from domain.events import ExchangeServer

PLAIN = b'{"value":[]}' * 100


@pytest.mark.parametrize(("raw", "encoding"), [(PLAIN, "identity"), (PLAIN, ""), (gzip.compress(PLAIN), "gzip")])
def test_a_whole_body_is_read(raw: bytes, encoding: str) -> None:
    assert decompressed(raw, encoding, 1 << 20, "graph") == PLAIN


def test_a_body_that_grows_without_bound_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        decompressed(gzip.compress(bytes(10 << 20)), "gzip", 1 << 20, "graph")


def test_a_second_part_of_a_body_is_not_missed_in_silence() -> None:
    with pytest.raises(ProtocolViolation):
        decompressed(gzip.compress(PLAIN) + gzip.compress(PLAIN), "gzip", 1 << 20, "graph")


def test_an_encoding_nobody_asked_for_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        decompressed(PLAIN, "br", 1 << 20, "graph")


@pytest.mark.parametrize("raw", [bytes(96), b"", gzip.compress(PLAIN)[:-9]])
def test_a_body_that_is_no_whole_gzip_is_no_body(raw: bytes) -> None:
    with pytest.raises(Exception, match="a body that"):
        decompressed(raw, "gzip", 1 << 20, "graph")


def test_a_ca_bundle_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    for path in (str(empty), str(tmp_path / "none.pem")):
        with pytest.raises(Malformed) as refused:
            tls_context(path)
        assert path in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://adfs.contoso.example/adfs/services/trust/2005/usernamemixed",
        "http://login.example:8443/common",
        "https://login.example:9/common",
        "https://login.example.evil.example:8443/common",
    ],
)
def test_a_credential_goes_to_the_login_service_alone(url: str) -> None:
    with LoginSession("https://login.example:8443", "") as session, pytest.raises(Elsewhere):
        session.post(url, data={"password": "x"})


def test_a_password_never_crosses_the_network_in_clear() -> None:
    with pytest.raises(NotAllowed):
        RemotePowerShell(ExchangeServer(host="mail", auth="basic", tls=False), "user", Secret("x"))


def test_refusals_of_an_exchange_server_are_told_apart() -> None:
    from pypsrp.exceptions import AuthenticationError, WSManFaultError

    quota = WSManFaultError(2150859173, "mail", "too many shells", None, None, None)
    crowded = WSManFaultError(0, "mail", "you have exceeded the maximum number of connections allowed : 3", "", "", "")
    assert isinstance(mapped(AuthenticationError("no")), SignInFailed)
    assert isinstance(mapped(quota), Throttled)
    assert isinstance(mapped(crowded), Throttled)


def test_a_node_without_kerberos_says_what_to_install() -> None:
    said = mapped(ImportError("GSSAPIProxy requires the Python gssapi library"))
    assert isinstance(said, NotAllowed)
    assert "Install `tenantry[kerberos]`" in str(said)


def test_an_answer_that_cannot_be_read_is_not_quoted() -> None:
    said = mapped(UnicodeEncodeError("utf-8", "hunter2\ud800", 7, 8, "hunter2"))
    assert isinstance(said, ProtocolViolation)
    assert "hunter2" not in repr(said)


def test_values_of_powershell_become_json() -> None:
    assert plain([1, "a", None, True, b"\x00", {"k": (1.5,)}]) == [1, "a", None, True, "AA==", {"k": [1.5]}]
    deep: list[object] = []
    deep.append(deep)
    assert "[" in str(plain(deep))
