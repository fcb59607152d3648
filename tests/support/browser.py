"""A page in Chromium without a window, served from the loopback address, and the one answer that it sends back."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

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

PAGE = """<!doctype html><meta charset="utf-8"><title>test</title>
<script type="module">
const answer = await (async () => {{
{script}
}})().then((value) => ({{ value }}), (error) => ({{ error: String(error.stack) }}));
await fetch("/answer", {{ method: "POST", body: JSON.stringify({{ ...answer, agent: navigator.userAgent }}) }});
</script>"""


def answered_in_page(script: str, modules: Mapping[str, Path], argument: object, profile: Path) -> Any:
    """What `script`, the body of an async function, returns in a page. It may import `modules` by their names, and
    fetch `argument` from /argument.json. `profile`: an empty directory."""
    assert CHROMIUM is not None
    documents = {
        "/": ("text/html", PAGE.format(script=script).encode()),
        "/argument.json": ("application/json", json.dumps(argument).encode()),
    } | {f"/{name}": ("text/javascript", path.read_bytes()) for name, path in modules.items()}
    with _served(documents) as (address, answers):
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:  # noqa: S603
            try:
                answered = answers.get(timeout=SECONDS)
            finally:
                browser.terminate()
    assert "Chrom" in answered["agent"]
    assert "error" not in answered, answered["error"]
    return answered["value"]


@contextmanager
def _served(documents: Mapping[str, tuple[str, bytes]]) -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """The address of the page, and where its one answer arrives."""
    answers: queue.Queue[dict[str, Any]] = queue.Queue()

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
