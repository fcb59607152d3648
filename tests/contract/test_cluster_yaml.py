"""`cluster.yaml`, judged by Ray's own validator and command line, and by what the actors count on."""

from __future__ import annotations

import copy
import ipaddress
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from jsonschema.exceptions import ValidationError

from actors.system import VARIABLES
from cli.config import load

ROOT = Path(__file__).parents[2]
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
COMMANDS = [command for key, value in CLUSTER.items() if key.endswith("_commands") for command in value]
STARTS = [command for command in COMMANDS if "ray start" in command]
TLS = {"RAY_USE_TLS", "RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY"}


def validate(cluster: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` does before it asks the cloud for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def environment() -> dict[str, str]:
    """The variables of every Ray process of a node."""
    written = next(command for command in COMMANDS if command.startswith("printf 'export "))
    return dict(word.split("=", 1) for word in shlex.split(written) if re.match(r"[A-Z]\w*=", word))


def test_ray_takes_the_file_as_it_is() -> None:
    prepared = validate(CLUSTER)
    assert prepared["head_node_type"] == "vault"
    assert prepared["available_node_types"]["worker"]["max_workers"] == CLUSTER["max_workers"]


@pytest.mark.parametrize(
    ("breaks", "error"),
    [
        (lambda cluster: cluster.update(vault_nodes=1), ValidationError),
        (lambda cluster: cluster.update(head_node_type="head"), ValueError),
        (lambda cluster: cluster["provider"].pop("type"), (KeyError, ValueError, ValidationError)),
        (lambda cluster: cluster["available_node_types"]["worker"].update(min_workers=17), ValueError),
        (lambda cluster: cluster["available_node_types"]["worker"].pop("resources"), ValidationError),
        (lambda cluster: cluster["available_node_types"]["worker"]["resources"].update(CPU=-1), ValidationError),
        (lambda cluster: cluster["available_node_types"]["vault"]["labels"].update(role=1), ValidationError),
        (lambda cluster: cluster["auth"].update(password="x"), ValidationError),
    ],
    ids=["unknown-key", "no-head", "no-provider", "too-few", "no-resources", "negative", "label", "auth"],
)
def test_ray_refuses_a_broken_copy(
    breaks: Callable[[dict[str, Any]], object], error: type[Exception] | tuple[type[Exception], ...]
) -> None:
    broken = copy.deepcopy(CLUSTER)
    breaks(broken)
    with pytest.raises(error):
        validate(broken)


def test_one_node_offers_the_vault_and_runs_no_task() -> None:
    kinds = CLUSTER["available_node_types"]
    offering = [name for name, kind in kinds.items() if "vault" in kind["resources"]]
    assert offering == [CLUSTER["head_node_type"]]
    vault = kinds[offering[0]]
    assert vault["resources"] == {"CPU": 0, "vault": 1}
    assert vault["max_workers"] == 0
    assert {name: kind["labels"]["role"] for name, kind in kinds.items()} == {"vault": "vault", "worker": "worker"}


def test_every_node_has_the_token_tls_and_the_variables_of_the_actors() -> None:
    variables = environment()
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_AUTH_TOKEN_PATH"] in CLUSTER["file_mounts"]
    assert variables["RAY_TLS_CA_CERT"] in CLUSTER["file_mounts"]
    assert variables.keys() >= TLS
    assert variables.items() >= VARIABLES.items()
    assert all(command.startswith(". ~/tenantry/environment;") for command in COMMANDS if "ray st" in command)


def test_a_driver_on_a_node_finds_the_cluster_and_its_state(tmp_path: Path) -> None:
    settings = load(None, None, environment(), tmp_path).settings
    assert settings.ray_address == "auto"
    assert any(command.endswith(f" {settings.state}") for command in COMMANDS if "install -d" in command)


def test_every_node_installs_the_same_wheel_and_nothing_unpinned() -> None:
    installs = [shlex.split(command) for command in COMMANDS if "pip install" in command]
    wheel = f"dist/tenantry-{VERSION}-py3-none-any.whl"
    assert CLUSTER["file_mounts"][f"/home/ubuntu/tenantry/{wheel}"] == wheel
    assert sum(f"~/tenantry/{wheel}" in words and "--no-deps" in words for words in installs) == 1
    assert sum("--require-hashes" in words for words in installs) == 1
    named = [word for words in installs for word in words[2:] if not word.startswith(("-", "~"))]
    assert all("==" in word for word in named)
    assert all(any(word in command for command in CLUSTER["head_setup_commands"]) for word in named)


def test_no_file_that_opens_the_cluster_is_in_the_repository() -> None:
    for local in CLUSTER["file_mounts"].values():
        assert local.startswith(("~/.ray/", "dist/")) or local == "requirements.txt"


@pytest.mark.parametrize("command", STARTS)
def test_ray_knows_every_option_it_is_started_with(command: str) -> None:
    from ray.scripts.scripts import start

    words = shlex.split(command.split("ray start", 1)[1].replace("$RAY_HEAD_IP", "10.0.0.4"))
    context = start.make_context("ray start", list(words))
    assert not context.args
    assert context.params["head"] == ("--head" in words)
    assert context.params["dashboard_host"] in ("127.0.0.1", "localhost")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_bash_can_read(command: str) -> None:
    subprocess.run(["bash", "-n", "-c", command], check=True)  # noqa: S603, S607 - read, not run


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The home of a node, with the authority of a cluster."""
    tls = tmp_path / "tenantry" / "tls"
    tls.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tenantry ray")])
    now = datetime.now(UTC)
    authority = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tls / "ca.crt").write_bytes(authority.public_bytes(Encoding.PEM))
    (tls / "ca.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return tmp_path


def run(command: str, home: Path) -> None:
    path = os.environ["PATH"]
    subprocess.run(  # noqa: S603 - our own file's command
        ["bash", "-c", command],  # noqa: S607
        check=True,
        capture_output=True,
        env={"HOME": str(home), "PATH": path},
    )


@pytest.mark.skipif(not shutil.which("openssl") or not shutil.which("hostname"), reason="runs what a node runs")
def test_a_node_gets_a_certificate_for_its_own_address_from_the_clusters_authority(node: Path) -> None:
    run(next(command for command in COMMANDS if "openssl req" in command), node)
    tls = node / "tenantry" / "tls"
    made = x509.load_pem_x509_certificate((tls / "node.crt").read_bytes())
    made.verify_directly_issued_by(x509.load_pem_x509_certificate((tls / "ca.crt").read_bytes()))
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("127.0.0.1") in names.get_values_for_type(x509.IPAddress)
    assert len(names.get_values_for_type(x509.IPAddress)) == 2
    assert (tls / "node.key").stat().st_mode & 0o077 == 0


def test_the_environment_of_a_node_can_be_read_by_its_shell(node: Path) -> None:
    run(next(command for command in COMMANDS if command.startswith("printf 'export ")), node)
    shown = subprocess.run(
        ["bash", "-c", '. ~/tenantry/environment; echo "$RAY_USE_TLS $RAY_AUTH_MODE $PATH"'],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
        env={"HOME": str(node), "PATH": "/usr/bin:/bin"},
    ).stdout
    assert shown.split() == ["1", "token", "/home/ubuntu/venv/bin:/usr/bin:/bin"]
