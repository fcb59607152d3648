"""RFC 6962 §2.1: the Merkle tree of an append-only log.

A leaf is hashed as SHA-256(0x00 | data), a node as SHA-256(0x01 | left | right), so neither passes for the other.
"""

from __future__ import annotations

import hashlib

EMPTY_ROOT = hashlib.sha256().digest()
HASH_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A growing tree of which only the roots of its full subtrees are kept, largest first: one per 1-bit of `size`."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def append_hash(self, leaf: bytes) -> None:
        """Adds a leaf, given by its hash."""
        node = leaf
        for _ in range((self.size ^ (self.size + 1)).bit_length() - 1):
            node = node_hash(self._peaks.pop(), node)
        self._peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root
