"""The PowerShell sealing script: what can be read off it everywhere, and what it does where there is a PowerShell."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from sealing import CLIENTS, TENANT, certificate, jwks, opened, private_key, vault

from cli.sealing import SealedCredential, parse_sealed
from crypto import credential as payloads
from crypto import envelope, jwe
from crypto.keyring import MAX_JWKS_BYTES, MIN_KEY_BITS, fingerprint
from domain.ids import ENTRA, SLOTS

SCRIPT = CLIENTS / "Protect-TenantryCredential.ps1"
TEXT = SCRIPT.read_bytes().decode("ascii")
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "envelopes.json").read_text())
POWERSHELLS = [shutil.which(name) for name in ("pwsh", "powershell")]
POWERSHELL = next((found for found in POWERSHELLS if found), None)
needs_powershell = pytest.mark.skipif(POWERSHELL is None, reason="No PowerShell here: the script is read, not run")
SECONDS = 60

HELP, CODE = re.split(r"(?<=^#>)\n", TEXT, maxsplit=1, flags=re.MULTILINE)
TOKEN = re.compile(
    r"""'(?:[^']|'')*'            # a literal string
      | "(?:[^"`]|`.|"")*"        # an expandable string
      | \#[^\n]*                  # a comment
      | [\[\](){}]                # a bracket
    """,
    re.VERBOSE | re.DOTALL,
)


def constant(name: str) -> str:
    """What `name = ...` is in the script: a number, a literal string, or literal strings added up."""
    found = re.search(rf"^ *\$?{name} = (?:(\d+)$|\(([^)]*)\)|('[^'\n]*')$)", CODE, re.MULTILINE)
    assert found, name
    number, added, single = found.groups()
    return number or "".join(re.findall(r"'([^']*)'", added or single))


# what can be read


def test_every_bracket_of_the_script_is_closed_in_its_place() -> None:
    closing = {"(": ")", "[": "]", "{": "}"}
    open_: list[str] = []
    for token in TOKEN.findall(CODE):
        if token in closing:
            open_.append(closing[token])
        elif token in closing.values():
            assert open_.pop() == token
    assert not open_


def test_windows_powershell_can_read_the_script() -> None:
    """Words and operators that only PowerShell 7 has; and 5.1 reads a file without a byte order mark as ANSI."""
    bare = TOKEN.sub(" ", CODE)
    for modern in (r"\?\?", r"\?\.", r"&&", r"\|\|", r"\s\?\s", r"\bclean\b", r"-AsPlainText\b", r"-AsHashtable\b"):
        assert not re.search(modern, bare), modern
    assert TEXT.startswith("#Requires -Version 5.1\n")
    assert "\t" not in TEXT
    assert "\r" not in TEXT


def test_types_that_only_newer_platforms_have_are_not_named_where_older_ones_read_them() -> None:
    assert "[System.Security.Cryptography.AesGcm]" not in CODE
    assert "'System.Security.Cryptography.AesGcm' -as [type]" in CODE


def test_nothing_in_the_script_runs_text_or_writes_a_secret() -> None:
    forbidden = ("Invoke-Expression", "iex ", "Add-Type", "Start-Process", "ConvertFrom-SecureString", "Write-Host")
    assert not [word for word in forbidden if word.lower() in CODE.lower()]
    assert "GetNetworkCredential" not in CODE
    for written in re.findall(r"Write-(?:Warning|Information|Verbose|Debug|Output) ([^\n]*)", CODE):
        assert not re.search(r"secret|password|payload|\$characters", written, re.IGNORECASE)


def test_every_parameter_is_explained_and_there_are_examples() -> None:
    parameters = re.findall(r"^    \[[^\n=]*\] \$(\w+)", CODE.split("\n)\n", maxsplit=1)[0], re.MULTILINE)
    assert len(parameters) == 13
    assert re.findall(r"^\.PARAMETER (\w+)$", HELP, re.MULTILINE) == parameters
    assert HELP.count("\n.EXAMPLE\n") == 3
    assert all(section in HELP for section in (".SYNOPSIS", ".DESCRIPTION"))


def test_a_fingerprint_that_is_named_is_never_empty() -> None:
    """One that a misspelt variable leaves empty would be compared with nothing."""
    assert re.search(r"\[ValidateNotNullOrEmpty\(\)\]\n +\[string\] \$Fingerprint,", CODE)


def test_a_check_of_the_self_test_that_ends_in_an_error_is_listed_like_the_others() -> None:
    checks = CODE.split("function Test-Client", maxsplit=1)[1].split("\n}\n", maxsplit=1)[0]
    assert re.search(r"try \{\s+\$result = if \(& \$check\.Run\)", checks)
    assert '$result = "failed: $($_.Exception.Message)"' in checks
    assert "-like 'failed*'" in checks


def test_the_header_has_the_members_that_python_writes_in_their_order() -> None:
    form = constant("HeaderForm")
    names = re.findall(r'"(\w+)":"\{\d\}"', form)
    assert tuple(names) == jwe.Header.__struct_fields__
    filled = form.replace("{{", "{").replace("}}", "}")
    for at, name in enumerate(names):
        filled = filled.replace(f"{{{at}}}", name)
    assert json.loads(filled) == {name: name for name in names}
    assert re.search(r"\$HeaderForm -f \$Alg, \$enc, \$Key\.Thumbprint, \$Typ, \$Tid, \$Place\)", CODE)


CONSTANTS: dict[str, object] = {
    "Alg": jwe.ALG,
    "Gcm": "A256GCM",
    "Cbc": "A256CBC-HS512",
    "Typ": envelope.TYP,
    "AzurePowerShell": payloads.AZURE_POWERSHELL,
    "MinKeyBits": MIN_KEY_BITS,
    "MaxJwksBytes": MAX_JWKS_BYTES,
    "MaxPayload": jwe.MAX_PAYLOAD,
    "MaxText": 256,
    "MaxSecret": 1024,
    "MaxPem": 12 * 1024,
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_script_means_the_same_by_its_constants_as_python(name: str) -> None:
    assert constant(name) == str(CONSTANTS[name])


def test_kinds_and_slots_are_those_of_python() -> None:
    sets = re.findall(r"\[ValidateSet\(([^)]*)\)\]", CODE)
    assert [re.findall(r"'([^']*)'", one) for one in sets] == [
        ["app-certificate", "app-secret", "service-account"],
        list(SLOTS),
    ]


@pytest.mark.parametrize(
    ("name", "vector", "member"),
    [
        ("Key", "cbc_hs512", "key"),
        ("Iv", "cbc_hs512", "iv"),
        ("Header", "cbc_hs512", "header"),
        ("Plaintext", "cbc_hs512", "plaintext"),
        ("Ciphertext", "cbc_hs512", "ciphertext"),
        ("Tag", "cbc_hs512", "tag"),
        ("Modulus", "thumbprint", "modulus"),
        ("Thumbprint", "thumbprint", "thumbprint"),
        ("Fingerprint", "thumbprint", "fingerprint"),
        ("Text", "digest", "text"),
        ("Digest", "digest", "digest"),
        ("Password", "payload", "password"),
        ("Payload", "payload", "payload"),
    ],
)
def test_the_self_test_has_the_vectors_of_the_vector_file(name: str, vector: str, member: str) -> None:
    assert constant(name) == VECTORS[vector][member]


def test_the_members_of_a_sealed_credential_are_those_that_python_reads_in_their_order() -> None:
    written = CODE.split("function Protect-Given", maxsplit=1)[1].split("\n}\n", maxsplit=1)[0]
    assert tuple(re.findall(r"'[{,]\"(\w+)\":'", written)) == SealedCredential.__struct_fields__
    assert "Get-TextDigest $envelope" in written


# what it does


def run(*arguments: str, secret: str = "") -> str:
    """Standard output of a PowerShell command. The secret is on its standard input, as `$given`."""
    assert POWERSHELL is not None
    read = "$given = ConvertTo-SecureString ([Console]::In.ReadToEnd()) -AsPlainText -Force; "
    command = read + f"& '{SCRIPT}' " + " ".join(arguments)
    found = subprocess.run(  # noqa: S603
        [POWERSHELL, "-NoProfile", "-NonInteractive", "-Command", command],
        input=secret or "unused",
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@needs_powershell
def test_the_self_test_passes() -> None:
    table = run("-SelfTest", "| ConvertTo-Json")
    assert {row["Result"] for row in json.loads(table)} <= {"passed", "not on this platform"}


def sealed_by_script(directory: Path, *arguments: str, secret: str) -> SealedCredential:
    key, out = directory / "vault.jwks", directory / "sealed.json"
    key.write_text(jwks())
    named = ("-PublicKey", f"'{key}'", "-Fingerprint", fingerprint(vault().active), "-Tenant", TENANT)
    run(*named, *arguments, "-Secret $given", "-OutFile", f"'{out}'", secret=secret)
    return parse_sealed(out.read_text(), out)


@needs_powershell
def test_a_service_account_that_the_script_seals_opens(tmp_path: Path) -> None:
    password = f'{secrets.token_urlsafe(20)}"\\äß 😀'
    sealed = sealed_by_script(
        tmp_path, "-Kind service-account -UserName reader@contoso.com -Slot exchange-server", secret=password
    )
    assert opened(sealed) == payloads.ServiceAccount(username="reader@contoso.com", password=password)
    assert (sealed.tenant, sealed.slot, sealed.identity) == (TENANT, "exchange-server", "reader@contoso.com")


@needs_powershell
def test_a_certificate_that_the_script_takes_from_a_pfx_file_opens(tmp_path: Path) -> None:
    key = private_key("rsa")
    password = secrets.token_urlsafe(20)
    parsed = x509.load_pem_x509_certificate(certificate("rsa").encode())
    protection = BestAvailableEncryption(password.encode())
    content = pkcs12.serialize_key_and_certificates(b"app", key, parsed, None, protection)
    pfx = tmp_path / "app.pfx"
    pfx.write_bytes(content)
    arguments = f"-Kind app-certificate -ClientId {TENANT} -Certificate '{pfx}'"
    sealed = sealed_by_script(tmp_path, arguments, secret=password)
    assert isinstance(opened(sealed), payloads.AppCertificate)
    assert (sealed.slot, sealed.expires) == (ENTRA, parsed.not_valid_after_utc)
