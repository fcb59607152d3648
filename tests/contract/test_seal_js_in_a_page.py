"""The sealing module in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import CHROMIUM, answered_in_page
from sealing import CLIENTS, app_certificate, app_secret, in_python, opened, request, service_account, vault

from cli.sealing import parse_sealed
from crypto.keyring import fingerprint

SCRIPT = """
const { sealCredential } = await import("/seal.js");
const answers = [];
for (const request of await (await fetch("/argument.json")).json()) {
  const refuse = ({ name, what }) => ({ refused: { name, what } });
  answers.push(await sealCredential(request).then((value) => ({ value }), refuse));
}
return answers;
"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: seal.js is not run in a page")
def test_a_browser_page_seals_what_python_opens(tmp_path: Path) -> None:
    given_ = [app_secret(secret="pässwörd 😀 e\u0301"), service_account(), app_certificate()]
    requests = [request(one, fingerprint=fingerprint(vault().active)) for one in given_]
    requests += [request(app_secret(), fingerprint="lusab-babad"), request(app_certificate(private_key_pem="x"))]
    answered = answered_in_page(SCRIPT, {"seal.js": CLIENTS / "seal.js"}, requests, tmp_path)
    *sealed, other_key, no_key = answered
    for one, answer in zip(given_, sealed, strict=True):
        assert opened(parse_sealed(json.dumps(answer["value"]), Path("sealed.json"))) == in_python(one)
    assert other_key == {"refused": {"name": "Malformed", "what": "vault public key"}}
    assert no_key == {"refused": {"name": "Malformed", "what": "private key"}}
