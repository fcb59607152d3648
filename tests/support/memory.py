"""What lies in the memory of processes and in files: the forms a secret may take, and where they are found.

A form is a part from the middle or the end of the secret: what an allocator writes into a freed block is at its
beginning. Linux only: proc_pid_maps(5), proc_pid_pagemap(5), proc_pid_mem(5), memmem(3).
"""

from __future__ import annotations

import base64
import ctypes
import os
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from crypto.credential import AppCertificate, AppSecret, Payload, ServiceAccount

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
READ_BYTES = 16 << 20
LONGEST_FORM = 256
PART_BYTES = 24
TAIL_CHARACTERS = 16
_ENTRY_BYTES = 8
_PRESENT_OR_SWAPPED = 0xC0
"""Of the highest byte of a page's entry."""
_KERNELS_OWN = ("[vvar", "[vsyscall", "[vdso")

Forms: TypeAlias = Mapping[str, bytes]
Found: TypeAlias = set[tuple[str, str]]
"""(name of the secret, name of the form)."""


def forms_of(credential: Payload) -> dict[str, bytes]:
    match credential:
        case AppCertificate(private_key_pem=pem):
            key = load_pem_private_key(pem.encode(), None)
            assert isinstance(key, RSAPrivateKey)
            return forms_of_key(key)
        case AppSecret(secret=secret) | ServiceAccount(password=secret):
            return forms_of_text(secret)


def forms_of_text(text: str) -> dict[str, bytes]:
    """The last characters as UTF-8, as UTF-16LE, and inside base64 wherever it begins."""
    tail = text[-TAIL_CHARACTERS:].encode()
    return {"utf-8": tail, "utf-16": tail.decode().encode("utf-16-le"), **_inside_base64(tail)}


def forms_of_key(key: RSAPrivateKey) -> dict[str, bytes]:
    """Parts of both primes as big-endian bytes (DER, JWK) and little-endian bytes (OpenSSL's numbers), of one in
    decimal, hex and base64, and two lines of the PKCS#8 PEM that hold nothing public."""
    numbers = key.private_numbers()
    found = {"p decimal": str(numbers.p)[-40:].encode(), "p hex": _part(numbers.p).hex().encode()}
    for name, prime in (("p", numbers.p), ("q", numbers.q)):
        found |= {f"{name} big-endian": _part(prime), f"{name} little-endian": _part(prime)[::-1]}
    found |= {f"p {name}": form for name, form in _inside_base64(_part(numbers.p)).items()}
    lines = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()[1:-1]
    return found | {f"PEM line {n}": lines[n] for n in (len(lines) // 2, len(lines) - 2)}


def _part(number: int) -> bytes:
    big = number.to_bytes((number.bit_length() + 7) // 8)
    return big[len(big) // 2 : len(big) // 2 + PART_BYTES]


def _inside_base64(data: bytes) -> dict[str, bytes]:
    """At each of the three offsets, the characters that depend on nothing around."""
    found = {}
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + data)
        found[f"base64+{offset}"] = encoded[-(-offset * 8 // 6) : (offset + len(data)) * 8 // 6]
    return found


def descendants(pid: int) -> dict[int, str]:
    """Process id to command line, of the process and everything below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (status := _of_process(entry / "stat")):
            parents[int(entry.name)] = int(status.rpartition(b")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {
        one: _of_process(Path(f"/proc/{one}/cmdline")).replace(b"\0", b" ").decode(errors="replace") for one in found
    }


def found_in_process(pid: int, secrets: Mapping[str, Forms]) -> Found:
    """In the memory that the process could write to. Raises `PermissionError`; nothing is found in one that has ended.

    What is mapped read-only from a file is left out: nothing that runs wrote it.
    """
    found: Found = set()
    try:
        with open(f"/proc/{pid}/mem", "rb", 0) as memory, open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap:
            for begin, end in _mappings(pid):
                for start, stop in _present(pagemap, begin, end):
                    for data in _read(memory, start, stop):
                        found |= found_in(data, secrets)
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def found_in_files(roots: Iterable[Path], secrets: Mapping[str, Forms]) -> dict[Path, Found]:
    """Regular files below the roots that hold something. A file that is gone when it is opened held nothing to keep."""
    found = {}
    for path in (path for root in roots for path in root.rglob("*")):
        try:
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        except FileNotFoundError:
            continue
        if here := found_in(content, secrets):
            found[path] = here
    return found


def found_in(data: bytes, secrets: Mapping[str, Forms]) -> Found:
    return {
        (name, form) for name, forms in secrets.items() for form, needle in forms.items() if _contains(data, needle)
    }


def _contains(data: bytes, needle: bytes) -> bool:
    """Several times as fast as `in` for bytes at random."""
    return _memmem(data, len(data), needle, len(needle)) is not None


_memmem = ctypes.CDLL(None).memmem
_memmem.restype = ctypes.c_void_p
_memmem.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)


def _of_process(path: Path) -> bytes:
    """Of a file in /proc; nothing when its process has ended."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _mappings(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, rights, _, _, inode, *name = line.split(maxsplit=5)
        unwritten = "w" not in rights and inode != "0"
        if rights.startswith("r") and not unwritten and not (name and name[0].startswith(_KERNELS_OWN)):
            begin, end = (int(address, 16) for address in addresses.split("-"))
            yield begin, end


def _present(pagemap: FileIO, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of pages that are in memory or swapped out; most of what Ray reserves never was."""
    pagemap.seek(begin // PAGE_BYTES * _ENTRY_BYTES)
    flags = pagemap.read((end - begin) // PAGE_BYTES * _ENTRY_BYTES)[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]
    start = None
    for n, flag in enumerate((*flags, 0)):
        if flag & _PRESENT_OR_SWAPPED and start is None:
            start = n
        elif not flag & _PRESENT_OR_SWAPPED and start is not None:
            yield begin + start * PAGE_BYTES, begin + n * PAGE_BYTES
            start = None


def _read(memory: FileIO, start: int, stop: int) -> Iterator[bytes]:
    """Overlapping, so that no form is cut in two. A mapping that is gone meanwhile is no memory any more."""
    while start < stop:
        memory.seek(start)
        try:
            data = memory.read(min(READ_BYTES, stop - start))
        except OSError:
            return
        yield data
        start += len(data) if start + len(data) >= stop else max(1, len(data) - LONGEST_FORM)
