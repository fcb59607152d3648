"""What can be sealed: secrets from a descriptor, a pipe or a terminal, certificates as PEM or PFX."""

from __future__ import annotations

import io
import os
import pty
import secrets
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    KeySerializationEncryption,
    NoEncryption,
    pkcs12,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealing import CLIENT, TENANT, certificate, encrypted_pem, jwks, opened, private_key, private_pem

from cli.main import main
from cli.sealing import parse_sealed
from crypto import credential as payloads
from crypto.certificate import WrongPassword, from_pfx
from crypto.keyring import fingerprint, parse_public
from domain.errors import Malformed

TENANTRY = Path(sys.executable).with_name("tenantry")
SECRET = ("--kind", "app-secret", "--client-id", CLIENT)
CERTIFICATE = ("--kind", "app-certificate", "--client-id", CLIENT)
ACCOUNT = ("--kind", "service-account", "--username", "reader@contoso.com")


@dataclass
class Desk:
    """Where sealing is typed. There is no state directory: it needs the public key only."""

    directory: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    said: str = ""

    def words(self, *words: str) -> list[str]:
        key, out = self.directory / "vault.jwks", self.directory / "sealed.json"
        return ["credential", "seal", "--public-key", str(key), "--tenant", TENANT, "--out", str(out), *words]

    def seal(self, *words: str, stdin: bytes | None = b"") -> payloads.Payload:
        self.monkeypatch.setattr(sys, "stdin", None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(self.words(*words))
        self.said = self.capsys.readouterr().err
        assert code == 0, self.said
        return self.sealed()

    def sealed(self) -> payloads.Payload:
        file = self.directory / "sealed.json"
        return opened(parse_sealed(file.read_text(), file))

    def refused(self, *words: str, stdin: bytes | None = b"") -> str:
        self.monkeypatch.setattr(sys, "stdin", None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(self.words(*words))
        said = self.capsys.readouterr()
        assert (code, said.out) == (2, ""), said
        assert said.err.count("\n") == 1
        assert not (self.directory / "sealed.json").exists()
        return said.err

    def handed(self, content: bytes) -> str:
        """A file that is open for reading, as a shell hands it over; the number of its descriptor."""
        file = self.directory / secrets.token_hex(8)
        file.write_bytes(content)
        descriptor = os.open(file, os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        return str(descriptor)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "vault.jwks").write_text(jwks())
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, capsys, monkeypatch)


# what is given beside the secret


def test_the_key_is_compared_with_the_words_before_anybody_is_asked(desk: Desk) -> None:
    words = fingerprint(parse_public(jwks()))

    desk.seal(*SECRET, "--fingerprint", f" {words.upper()}\n", stdin=WORD.encode())
    (desk.directory / "sealed.json").unlink()

    assert words in desk.refused(*SECRET, "--fingerprint", "-".join(reversed(words.split("-"))), stdin=None)
    assert words in desk.refused(*SECRET, "--fingerprint", "", stdin=None)


def test_a_client_secret_is_sealed_with_when_it_expires(desk: Desk) -> None:
    desk.seal(*SECRET, "--expires", "2027-03-01T01:00:00+01:00", stdin=WORD.encode())

    file = desk.directory / "sealed.json"
    assert parse_sealed(file.read_text(), file).expires == datetime(2027, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "words",
    [
        (*SECRET, "--username", "reader@contoso.com"),
        (*SECRET, "--certificate", "app.pem"),
        (*CERTIFICATE, "--expires", "2027-03-01"),
        (*SECRET, "--expires", "soon"),
        (*SECRET, "--slot", "exchange"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_sealed_is_refused_before_anybody_is_asked(desk: Desk, words: Sequence[str]) -> None:
    assert "standard input" not in desk.refused(*words, stdin=None)


# descriptors


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_comes_from_a_descriptor_and_one_newline_at_its_end_is_dropped(desk: Desk, end: str) -> None:
    secret = f" {secrets.token_urlsafe(20)} "

    sealed = desk.seal(*SECRET, "--password-fd", desk.handed(f"{secret}{end}".encode()), stdin=b"something else")

    assert sealed == payloads.AppSecret(client_id=CLIENT, secret=secret)


def test_a_password_comes_through_a_pipe_in_pieces(desk: Desk) -> None:
    password = secrets.token_urlsafe(700)
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    for at in range(0, len(password), 7):
        os.write(writing, password[at : at + 7].encode())
    os.close(writing)

    assert desk.seal(*ACCOUNT, "--password-fd", str(reading)) == payloads.ServiceAccount(
        username="reader@contoso.com", password=password
    )


@pytest.mark.parametrize("words", [(), ("--password-fd", "0")], ids=["piped", "descriptor 0"])
def test_standard_input_is_descriptor_0(desk: Desk, words: Sequence[str]) -> None:
    secret = secrets.token_urlsafe(20)
    assert desk.seal(*SECRET, *words, stdin=f"{secret}\n".encode()) == payloads.AppSecret(
        client_id=CLIENT, secret=secret
    )


def closed(desk: Desk) -> str:
    descriptor = desk.handed(b"x")
    os.close(int(descriptor))
    return descriptor


def of_our_own(desk: Desk) -> str:
    return str(os.open(desk.directory / "vault.jwks", os.O_RDONLY))


def for_writing(desk: Desk) -> str:
    descriptor = os.open(desk.directory / "written", os.O_WRONLY | os.O_CREAT)
    os.set_inheritable(descriptor, True)
    return str(descriptor)


def terminal(desk: Desk) -> str:
    _, descriptor = pty.openpty()
    os.set_inheritable(descriptor, True)
    return str(descriptor)


UNUSABLE: dict[str, tuple[Callable[[Desk], str], str]] = {
    "closed": (closed, "Bad file descriptor"),
    "of our own": (of_our_own, "not handed to this command"),
    "for writing": (for_writing, "Bad file descriptor"),
    "a terminal": (terminal, "it is a terminal. Leave --password-fd out"),
    "larger than any": (lambda _: str(1 << 70), "there is none of that number"),
    "at its end": (lambda desk: desk.handed(b""), "Cannot read the client secret from file descriptor"),
    "an empty line": (lambda desk: desk.handed(b"\n"), "nothing came"),
    "two lines": (lambda desk: desk.handed(b"one\ntwo\n"), "without control characters"),
    "two newlines": (lambda desk: desk.handed(b"one\n\n"), "without control characters"),
    "too much": (lambda desk: desk.handed(b"x" * 70_000), "at most 64 KiB"),
    "no text": (lambda desk: desk.handed(b"\xff\xfe"), "UTF-8 text from file descriptor"),
}


@pytest.mark.parametrize("which", UNUSABLE)
def test_a_descriptor_is_refused_that_is(desk: Desk, which: str) -> None:
    make, named = UNUSABLE[which]
    assert named in desk.refused(*SECRET, "--password-fd", make(desk))


def test_a_negative_descriptor_is_wrong_usage(desk: Desk) -> None:
    assert "--password-fd" in desk.refused(*SECRET, "--password-fd", "-1")


def test_a_closed_standard_input_is_told(desk: Desk) -> None:
    assert "it is closed" in desk.refused(*SECRET, stdin=None)
    assert "it is closed" in desk.refused(*SECRET, "--password-fd", "0", stdin=None)


def test_a_refused_secret_is_not_quoted(desk: Desk) -> None:
    word = secrets.token_hex(16)
    assert word not in desk.refused(*SECRET, "--password-fd", desk.handed(f"{word}\n{word}".encode()))


def test_the_shell_s_own_redirection_hands_a_descriptor_over(desk: Desk) -> None:
    secret = secrets.token_urlsafe(20)
    (desk.directory / "secret.txt").write_text(f"{secret}\n")
    command = '"$0" "$@" --password-fd 7 7<secret.txt'

    ended = subprocess.run(  # noqa: S603 - our own command
        ["/bin/bash", "-c", command, str(TENANTRY), *desk.words(*SECRET)], check=True, capture_output=True
    )

    assert secret.encode() not in ended.stdout + ended.stderr
    assert desk.sealed() == payloads.AppSecret(client_id=CLIENT, secret=secret)


# certificates


def pfx(
    password: str | None,
    *,
    kind: str | None = "rsa",
    leaf: str | None = "rsa",
    others: Sequence[str] = (),
) -> bytes:
    """`kind`: of its private key, `leaf`: the certificate beside it, `others`: those in its company."""
    protection: KeySerializationEncryption = NoEncryption()
    if password is not None:
        protection = BestAvailableEncryption(password.encode())
    return pkcs12.serialize_key_and_certificates(
        b"app",
        private_key(kind) if kind else None,
        loaded(leaf) if leaf else None,
        [loaded(one) for one in others] or None,
        protection,
    )


def loaded(kind: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate(kind).encode())


def of_kind(sealed: payloads.Payload, kind: str) -> bool:
    assert isinstance(sealed, payloads.AppCertificate)
    return sealed.certificate_pem == certificate(kind) and sealed.private_key_pem == private_pem(kind)


def test_a_certificate_and_its_key_come_out_of_a_pfx_file(desk: Desk) -> None:
    password = f"{secrets.token_urlsafe(10)}äß"
    file = desk.directory / "app.pfx"
    file.write_bytes(pfx(password))

    sealed = desk.seal(*CERTIFICATE, "--certificate", str(file), "--password-fd", desk.handed(password.encode()))

    assert of_kind(sealed, "rsa")
    assert desk.said == ""


def test_of_several_certificates_the_one_of_the_key_is_sealed(desk: Desk) -> None:
    password = secrets.token_urlsafe(10)
    for content in (
        pfx(password, others=["another rsa", "p-256"]),
        pfx(password, leaf=None, others=["another rsa", "rsa", "p-256"]),
    ):
        (desk.directory / "app.pfx").write_bytes(content)
        words = ("--certificate", "app.pfx", "--password-fd", desk.handed(password.encode()))
        assert of_kind(desk.seal(*CERTIFICATE, *words), "rsa")


@pytest.mark.parametrize("password", [None, secrets.token_urlsafe(10)], ids=["without a password", "with one"])
def test_a_pfx_file_may_come_on_standard_input(desk: Desk, password: str | None) -> None:
    words = ("--password-fd", desk.handed(password.encode())) if password else ()
    assert of_kind(desk.seal(*CERTIFICATE, *words, stdin=pfx(password)), "rsa")


def test_the_password_of_a_pfx_file_may_be_piped(desk: Desk) -> None:
    password = secrets.token_urlsafe(10)
    (desk.directory / "app.pfx").write_bytes(pfx(password))
    for words in ((), ("--password-fd", "0")):
        sealed = desk.seal(*CERTIFICATE, "--certificate", "app.pfx", *words, stdin=f"{password}\n".encode())
        assert of_kind(sealed, "rsa")


def test_pem_is_read_as_before(desk: Desk) -> None:
    for text in (certificate("rsa") + private_pem("rsa"), private_pem("rsa") + certificate("rsa")):
        assert of_kind(desk.seal(*CERTIFICATE, stdin=text.encode()), "rsa")
        (desk.directory / "app.pem").write_text(f"Bag Attributes\n{text}")
        assert of_kind(desk.seal(*CERTIFICATE, "--certificate", "app.pem"), "rsa")


WORD = secrets.token_urlsafe(10)


@cache
def whole() -> bytes:
    return pfx(WORD)


def with_encrypted_key() -> bytes:
    return (certificate("rsa") + encrypted_pem()).encode()


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "another password": (
        lambda: pfx(WORD + "x"),
        "does not open the PFX file: expected the one that it was exported with",
    ),
    "no key": (lambda: pfx(WORD, kind=None), "one with the private key"),
    "the key of another certificate": (
        lambda: pfx(WORD, leaf=None, others=["another rsa"]),
        "the certificate of its private key",
    ),
    "a key on a curve": (lambda: pfx(WORD, kind="p-256", leaf="p-256"), "a certificate with an RSA key"),
    "nothing but a key": (lambda: pfx(WORD, leaf=None), "the certificate of its private key"),
    "a file cut short": (lambda: whole()[:-40], "or a PFX file"),
    "a certificate alone in DER": (lambda: b"\x30\x82\x01\x00" + bytes(256), "or a PFX file"),
    "no certificate at all": (lambda: b"\x89PNG" + bytes(20), "or a PFX file"),
    "an encrypted key in PEM": (with_encrypted_key, "private key"),
    "far too much": (lambda: b"\x30" * 70_000, "64 KiB"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_a_certificate_is_refused_that_is(desk: Desk, which: str) -> None:
    make, named = REFUSED[which]
    (desk.directory / "app.pfx").write_bytes(make())
    words = ("--certificate", "app.pfx", "--password-fd", desk.handed(WORD.encode()))
    said = desk.refused(*CERTIFICATE, *words)
    assert named.lower() in said.lower()
    assert WORD not in said


def test_one_stream_cannot_be_both_the_file_and_its_password(desk: Desk) -> None:
    assert "--password-fd N" in desk.refused(*CERTIFICATE, stdin=pfx(WORD))
    assert "--certificate FILE" in desk.refused(*CERTIFICATE, "--password-fd", "0", stdin=pfx(WORD))


def test_an_expired_certificate_is_sealed_with_a_warning(desk: Desk) -> None:
    expired = certificate("rsa", 365, datetime(2006, 11, 22, tzinfo=UTC))
    (desk.directory / "app.pem").write_text(expired + private_pem("rsa"))

    sealed = desk.seal(*CERTIFICATE, "--certificate", "app.pem")

    assert isinstance(sealed, payloads.AppCertificate)
    assert sealed.certificate_pem == expired
    assert "it will not sign in" in desk.said


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 3000), flipped=st.integers(1, 255))
def test_a_pfx_file_with_a_wrong_byte_is_refused_or_still_a_pair(at: int, flipped: int) -> None:
    content = bytearray(whole())
    content[at % len(content)] ^= flipped
    with suppress(Malformed, WrongPassword):
        assert from_pfx(bytes(content), WORD).private_key == private_pem("rsa")


def test_the_password_is_asked_for_at_a_terminal_without_echo(desk: Desk) -> None:
    password = secrets.token_urlsafe(10)
    (desk.directory / "app.pfx").write_bytes(pfx(password))
    ours, theirs = pty.openpty()
    asked = subprocess.Popen(  # noqa: S603 - our own command
        [TENANTRY, *desk.words(*CERTIFICATE, "--certificate", "app.pfx")],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(theirs)
    assert asked.stderr is not None
    assert b"Password of app.pfx" in os.read(asked.stderr.fileno(), 100)
    os.write(ours, f"{password}\n".encode())
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody has its other end any more
        while True:
            shown += os.read(ours, 4096)
    asked.communicate(timeout=30)
    os.close(ours)
    assert password.encode() not in shown
    assert of_kind(desk.sealed(), "rsa")
