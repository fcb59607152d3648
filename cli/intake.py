"""What an operator gives for a credential: secrets at a prompt, on standard input or on a file descriptor, certificates
as PEM or PFX. Never an argument: the list of processes shows those to everybody.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import sys
from pathlib import Path

from cli.files import MAX_TEXT, read_bytes
from crypto import credential as payloads
from crypto.certificate import WANTED, Pair, WrongPassword, from_pem, from_pfx, is_pfx
from domain.errors import Malformed, NotAllowed, Unreadable

KINDS = ("app-certificate", "app-secret", "service-account")
OF_KIND = {"--username": "service-account", "--certificate": "app-certificate"}
"""Options that one kind takes."""
STANDARD_INPUT = 0
INPUT = "from standard input"
GIVE = "Pipe it in, name another descriptor with --password-fd, or run at a terminal to be asked."
_STANDARD = 2
"""Descriptors up to this one are everybody's."""


def read_credential(
    kind: str, client_id: str, username: str, certificate: Path | None, password_fd: int | None = None
) -> payloads.Payload:
    """Asks for what is missing; raises `Malformed`, `NotAllowed` or `Unreadable` for what cannot be.

    `password_fd`: where the client secret, the password, or the password of the PFX file is read from.
    """
    if kind in KINDS:
        _takes(kind, {"--username": username, "--certificate": certificate})
    match kind:
        case "app-certificate":
            _needs_client(client_id)
            return _certificate(client_id, certificate, password_fd)
        case "app-secret":
            _needs_client(client_id)
            return payloads.AppSecret(client_id=client_id, secret=_secret("Client secret", password_fd))
        case "service-account":
            if not username:
                raise Malformed("user name", username, "--username such as reader@contoso.com")
            password = _secret(f"Password of {username}", password_fd)
            client = {"client_id": client_id} if client_id else {}
            return payloads.ServiceAccount(username=username, password=password, **client)
        case _:
            raise Malformed("kind of credential", kind, ", ".join(KINDS))


def certificate_payload(client_id: str, pem: str) -> payloads.AppCertificate:
    return _payload(client_id, from_pem(pem))


def _payload(client_id: str, pair: Pair) -> payloads.AppCertificate:
    return payloads.AppCertificate(
        client_id=client_id, certificate_pem=pair.certificate, private_key_pem=pair.private_key
    )


def _takes(kind: str, given: dict[str, str | Path | None]) -> None:
    """What would be left out of the envelope without a word is refused before anybody is asked for a secret."""
    for option, value in given.items():
        if value and OF_KIND[option] != kind:
            raise NotAllowed("seal the credential", f"{option} is for {OF_KIND[option]}", f"Leave it out for {kind}.")


def _needs_client(client_id: str) -> None:
    if not client_id:
        raise Malformed("client id", client_id, "--client-id with the application's GUID")


def _certificate(client_id: str, file: Path | None, password_fd: int | None) -> payloads.AppCertificate:
    content = read_bytes(file, "certificate") if file else _piped_certificate(password_fd)
    if is_pfx(content):
        return _payload(client_id, _pair_of_pfx(content, file, password_fd))
    try:
        return certificate_payload(client_id, content.decode())
    except UnicodeDecodeError:
        raise Malformed("certificate", "that file", WANTED) from None


def _pair_of_pfx(content: bytes, file: Path | None, password_fd: int | None) -> Pair:
    """Nobody is asked for the password of a file that has none."""
    if password_fd is None:
        try:
            return from_pfx(content, "")
        except WrongPassword:
            if file is None:
                expected = "it on --password-fd N: standard input has the PFX file"
                raise Malformed("password of the PFX file", "nothing", expected) from None
    return from_pfx(content, _secret(f"Password of {file or 'the PFX file'}", password_fd))


def _piped_certificate(password_fd: int | None) -> bytes:
    if password_fd == STANDARD_INPUT:
        raise Malformed("certificate", "nothing", "--certificate FILE: standard input has its password")
    if _at_terminal():
        raise Malformed("certificate", "nothing", "--certificate FILE, or PEM on standard input")
    content = _piped("certificate")
    if not content.strip():
        raise Unreadable("certificate", INPUT, "nothing came", "Give --certificate FILE, or PEM on standard input.")
    return content


def _secret(prompt: str, descriptor: int | None) -> str:
    """From the descriptor, else from a prompt without echo, else from standard input up to its end."""
    what = prompt.lower()
    if descriptor is not None and descriptor != STANDARD_INPUT:
        where, content = f"from file descriptor {descriptor}", _read(descriptor, what)
    elif _at_terminal():
        if descriptor == STANDARD_INPUT:
            raise Unreadable(what, INPUT, "it is a terminal", "Leave --password-fd out to be asked.")
        where, content = "from the prompt", getpass.getpass(f"{prompt}: ").encode(errors="surrogateescape")
    else:
        where, content = INPUT, _piped(what)
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Malformed(what, "...", f"UTF-8 text {where}") from None
    if not text:
        raise Unreadable(what, where, "nothing came", GIVE)
    return text


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _piped(what: str) -> bytes:
    if sys.stdin is None:
        raise Unreadable(what, INPUT, "it is closed", "Give it, or name another with --password-fd.")
    return _bounded(what, sys.stdin.buffer.read(MAX_TEXT + 1))


def _read(descriptor: int, what: str) -> bytes:
    """Up to its end. It stays open: it is the caller's."""
    place, remedy = f"from file descriptor {descriptor}", f"Redirect it, as in `{descriptor}<FILE`."
    content = bytearray()
    try:
        if descriptor > _STANDARD and fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
            raise Unreadable(what, place, "it was not handed to this command", remedy)
        if os.isatty(descriptor):
            raise Unreadable(what, place, "it is a terminal", "Leave --password-fd out to be asked.")
        while len(content) <= MAX_TEXT and (part := os.read(descriptor, MAX_TEXT + 1 - len(content))):
            content += part
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "there is none of that number"
        raise Unreadable(what, place, why, remedy) from None
    return _bounded(what, bytes(content))


def _bounded(what: str, content: bytes) -> bytes:
    if len(content) > MAX_TEXT:
        raise Malformed(what, "...", f"at most {MAX_TEXT // 1024} KiB")
    return content
