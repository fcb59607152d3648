"""The bare loop: the least that can be done with the same pages. One after the other: ask (httpx), slice
(msgspec.Raw), digest (SHA-256), compress (zstd), and every 8 MiB seal (AES-GCM). It checks, stores and records nothing.
"""

from __future__ import annotations

import hashlib
import os
import ssl

import httpx
import msgspec
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.measured import Job, Measured, peak_mib, read_job, report, stopwatch

BATCH_BYTES = 8 << 20


class Page(msgspec.Struct):
    value: list[msgspec.Raw]
    next_link: str | None = msgspec.field(default=None, name="@odata.nextLink")


def bare(job: Job) -> Measured:
    cloud = job.settings.clouds["simulator"]
    headers = {**job.headers, "Authorization": f"Bearer {job.token}"}
    aead = AESGCM(os.urandom(32))
    pages = msgspec.json.Decoder(Page)
    rows = requests = row_bytes = stored_bytes = taken = 0
    with stopwatch() as watch, httpx.Client(verify=ssl.create_default_context(cafile=cloud.ca_bundle)) as client:
        url: str | None = job.url
        digest, zstd, compressed = hashlib.sha256(), zstandard.ZstdCompressor(level=3).compressobj(), []
        while url:
            body = client.get(url, headers=headers, timeout=60).raise_for_status().content
            page = pages.decode(body)
            lines = b"\n".join((*page.value, b""))
            digest.update(lines)
            compressed.append(zstd.compress(lines))
            rows += len(page.value)
            requests += 1
            row_bytes += len(lines)
            taken += len(lines)
            url = page.next_link
            if taken >= BATCH_BYTES or not url:
                compressed.append(zstd.flush())
                nonce = os.urandom(12)
                stored_bytes += len(nonce + aead.encrypt(nonce, b"".join(compressed), digest.digest()))
                digest, zstd, compressed = hashlib.sha256(), zstandard.ZstdCompressor(level=3).compressobj(), []
                taken = 0
    return Measured(
        rows=rows,
        seconds=watch.seconds,
        cpu_seconds=watch.cpu_seconds,
        requests=requests,
        row_bytes=row_bytes,
        stored_bytes=stored_bytes,
        peak_mib=peak_mib(),
    )


if __name__ == "__main__":
    report(bare(read_job()))
