"""The sealing module in a browser: Chromium without a window, on a page from the loopback address."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from sealing import CLIENTS, app_certificate, app_secret, in_python, opened, request, service_account, vault

from cli.sealing import parse_sealed
from crypto.keyring import fingerprint

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--remote-debugging-port=0",
)
"""The debugging port only keeps the browser open until it is told to end."""
SECONDS = 30

PAGE = b"""<!doctype html><meta charset="utf-8"><title>seal</title>
<script type="module">
import { sealCredential, readPublicKey } from "/seal.js";
const requests = await (await fetch("/requests.json")).json();
const answers = [];
for (const request of requests) {
  const refuse = ({ name, what }) => ({ refused: { name, what } });
  answers.push(await sealCredential(request).then((value) => ({ value }), refuse));
}
await fetch("/answers", { method: "POST", body: JSON.stringify({ answers, agent: navigator.userAgent }) });
</script>"""


@contextmanager
def page_served(requests: list[object]) -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """The address of a page that carries out these requests, and where its one answer arrives."""
    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    documents = {
        "/": ("text/html", PAGE),
        "/seal.js": ("text/javascript", (CLIENTS / "seal.js").read_bytes()),
        "/requests.json": ("application/json", json.dumps(requests).encode()),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, content = documents.get(self.path, ("text/plain", b""))
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: what fails is seen in the answer."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", answers
        server.shutdown()
        thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: seal.js is not run in a page")
def test_a_browser_page_seals_what_python_opens(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    given_ = [app_secret(secret="pässwörd 😀 e\u0301"), service_account(), app_certificate(), app_certificate("p-256")]
    requests = [request(one, fingerprint=fingerprint(vault().active)) for one in given_]
    requests += [request(app_secret(), fingerprint="lusab-babad"), request(app_certificate(private_key_pem="x"))]
    with page_served([*requests]) as (address, answers):
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:  # noqa: S603
            try:
                answered = answers.get(timeout=SECONDS)
            finally:
                browser.terminate()
    assert "Chrom" in answered["agent"]
    *sealed, other_key, no_key = answered["answers"]
    for one, answer in zip(given_, sealed, strict=True):
        assert opened(parse_sealed(json.dumps(answer["value"]), Path("sealed.json"))) == in_python(one)
    assert other_key == {"refused": {"name": "Malformed", "what": "vault public key"}}
    assert no_key == {"refused": {"name": "Malformed", "what": "private key"}}
