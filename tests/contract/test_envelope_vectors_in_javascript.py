"""The vector file in JavaScript: an opener of its own and the real `seal.js`, in Node and in a page, agree with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, answered_in_page
from sealing import CLIENTS
from vectors import BAD, FILE, GOOD, SEALED, VECTORS, named, of_jwcrypto

from crypto.jwe import SIZES

NODE = shutil.which("node")
SUPPORT = Path(__file__).parents[1] / "support"
IN_NODE = """
const [, answering, sealing, file] = process.argv;
const { answers } = await import(answering);
const vectors = JSON.parse((await import("node:fs")).readFileSync(file, "utf-8"));
process.stdout.write(JSON.stringify(await answers(vectors, await import(sealing))));
"""
IN_PAGE = """
const { answers } = await import("/vectors.mjs");
const vectors = await (await fetch("/argument.json")).json();
return answers(vectors, await import("/seal.js"));
"""


def in_node(_: Path) -> Any:
    assert NODE is not None
    arguments = [(SUPPORT / "vectors.mjs").as_uri(), (CLIENTS / "seal.js").as_uri(), str(FILE)]
    command = [NODE, "--input-type=module", "--eval", IN_NODE, *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def in_page(profile: Path) -> Any:
    modules = {name: SUPPORT / name for name in ("vectors.mjs", "envelopes.mjs")} | {"seal.js": CLIENTS / "seal.js"}
    return answered_in_page(IN_PAGE, modules, VECTORS, profile)


PLACES = [
    pytest.param(in_node, id="node", marks=pytest.mark.skipif(NODE is None, reason="Node is not installed")),
    pytest.param(in_page, id="page", marks=pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")),
]


@pytest.fixture(scope="module", params=PLACES)
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `vectors.mjs` made of the file."""
    found: dict[str, Any] = request.param(tmp_path_factory.mktemp("javascript"))
    return found


def listed(vectors: list[dict[str, Any]], found: list[Any]) -> dict[str, Any]:
    return dict(zip(map(named, vectors), found, strict=True))


def test_an_envelope_of_any_maker_opens_and_seal_js_seals_its_payload_again(answers: dict[str, Any]) -> None:
    """The file's certificates have no RSA keys: their envelopes open, and nobody seals such a payload any more."""
    certificates = [named(good) for good in GOOD if good["name"] in ("certificate", "longest payload")]
    expected: dict[str, Any] = {named(good): [good["sha256"]] * 2 for good in GOOD} | dict.fromkeys(
        certificates, "payload"
    )
    assert listed(GOOD, answers["good"]) == expected


def test_an_envelope_that_opens_nowhere_does_not_open_here_for_the_same_reason(answers: dict[str, Any]) -> None:
    assert listed(BAD, answers["bad"]) == {named(bad): bad["why"] for bad in BAD}


def test_an_envelope_that_is_changed_or_cut_anywhere_or_too_long_does_not_open(answers: dict[str, Any]) -> None:
    bytes_ = [sum(len(segment) * 3 // 4 for segment in of_jwcrypto(enc)["envelope"].split(".")) for enc in SIZES]
    assert answers["changed"] == [[length, 0] for length in bytes_]
    assert answers["cut"] == [len(GOOD[0]["envelope"]), 0]
    assert answers["oversize"] == "oversize"


def test_seal_js_reads_and_names_a_key_as_written(answers: dict[str, Any]) -> None:
    thumbprint = VECTORS["public_key"]["kid"]
    assert answers["published"] == {"thumbprint": thumbprint, "fingerprint": VECTORS["fingerprint"]}
    assert answers["example"] == {name: VECTORS["thumbprint"][name] for name in ("thumbprint", "fingerprint")}


def test_seal_js_writes_the_payload_and_the_digest_of_the_file(answers: dict[str, Any]) -> None:
    assert answers["payload"] == VECTORS["payload"]["payload"]
    assert answers["digest"] == VECTORS["digest"]["digest"]
    written, expected = answers["ownDigest"]
    assert written == expected


def test_a_sealed_file_is_read_or_refused_as_written(answers: dict[str, Any]) -> None:
    told = {
        named(one): {n: v for n, v in one["file"].items() if n not in ("envelope", "digest")} for one in SEALED["good"]
    }
    assert listed(SEALED["good"], answers["sealedGood"]) == told
    assert listed(SEALED["bad"], answers["sealedBad"]) == {named(one): one["why"] for one in SEALED["bad"]}


def test_the_published_example_of_cbc_opens(answers: dict[str, Any]) -> None:
    assert answers["cbc"] == VECTORS["cbc_hs512"]["plaintext"]
