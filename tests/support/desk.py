"""Where commands are typed, whole ones in this process and real ones beside it."""

from __future__ import annotations

import ctypes
import io
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import pytest

from cli.config import load
from cli.main import main
from cli.state import State, stop_keyholder

CONTOSO = "11111111-2222-3333-4444-555555555555"
SUSPENDED = "22222222-2222-3333-4444-555555555555"
OFFBOARDED = "33333333-2222-3333-4444-555555555555"
STRANGER = "99999999-2222-3333-4444-555555555555"
CLIENT = "44444444-2222-3333-4444-555555555555"
RUN = "20261122T203000-0a1b2c3d"
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24
TENANTRY = Path(sys.executable).with_name("tenantry")


@dataclass
class Said:
    code: int
    out: str
    err: str


@dataclass
class Desk:
    """Where commands are typed: a working directory with an initialised state directory."""

    directory: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    closing: ExitStack = field(default_factory=ExitStack)

    @property
    def state(self) -> Path:
        return self.directory / ".tenantry"

    def type(self, *words: str, stdin: bytes = b"") -> Said:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self.capsys.readouterr()
        code = main(words)
        out, err = self.capsys.readouterr()
        return Said(code, out, err)

    def refused(self, code: int, *words: str, stdin: bytes = b"") -> str:
        """The one line of a refusal."""
        said = self.type(*words, stdin=stdin)
        assert (said.code, said.out) == (code, ""), said
        return one_line(said.err)

    def opened(self) -> State:
        state = State(load(str(self.state), None, {}, self.directory).settings)
        self.closing.callback(state.close)
        return state

    def seal(self, file: str, *, key: str = "key.jwks", tenant: str = CONTOSO) -> Path:
        words = ["credential", "seal", "--public-key", key, "--tenant", tenant, "--kind", "app-secret"]
        said = self.type(*words, "--client-id", CLIENT, "--out", file, stdin=token_hex(16).encode())
        assert said.code == 0, said
        return self.directory / file


def one_line(err: str) -> str:
    assert err.startswith("tenantry: "), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def said_until(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    """What a process has said on standard output when it has said this."""
    assert process.stdout is not None
    said = b""
    while text not in said:
        assert select.select([process.stdout], [], [], 110)[0], f"nothing more was said after {said[-500:]!r}"
        more = os.read(process.stdout.fileno(), 65536)
        assert more, (said, process.communicate())
        said += more
    return said


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TENANTRY_")}


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An active, a suspended and an offboarded tenant; the public keys of this state directory and of another."""
    directory = tmp_path_factory.mktemp("desk")
    state = directory / ".tenantry"
    for words in (
        ["init"],
        ["vault", "public-key", "--out", str(directory / "key.jwks")],
        *(["tenant", "add", one, "--domain", "contoso.com"] for one in (CONTOSO, SUSPENDED, OFFBOARDED)),
        ["tenant", "suspend", SUSPENDED, "--reason", "contract"],
        ["tenant", "offboard", OFFBOARDED, "--reason", "left", "--yes"],
    ):
        assert main([*words, "--state", str(state)]) == 0
    assert main(["init", "--state", str(directory / "other")]) == 0
    shutil.copy(directory / "other" / "vault-public.jwks", directory / "other.jwks")
    shutil.rmtree(directory / "other")
    stop_keyholder(load(str(state), None, {}, directory).settings)
    return directory


@pytest.fixture
def desk(
    laid_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    directory = tmp_path / "desk"
    shutil.copytree(laid_out, directory)
    monkeypatch.chdir(directory)
    for name in os.environ:
        if name.startswith("TENANTRY_"):
            monkeypatch.delenv(name)
    made = Desk(directory, capsys, monkeypatch)
    with made.closing:
        yield made
    if (made.state / "version").exists():
        stop_keyholder(load(str(made.state), None, {}, directory).settings)


def as_its_owner() -> None:
    """For a process that starts: even root is then held to what a file's mode allows its owner."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if os.getuid() == 0 and libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def run(desk: Desk, *words: str, before: Callable[[], None] | None = None, **variables: str) -> Said:
    ended = subprocess.run(  # noqa: S603 - our own command
        [TENANTRY, *words],
        cwd=desk.directory,
        env=environment() | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=before,
    )
    return Said(ended.returncode, ended.stdout, ended.stderr)
