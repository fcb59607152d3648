"""The tree is that of RFC 6962."""

from __future__ import annotations

import hashlib

from crypto.merkle import Tree, leaf_hash

LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The test data of the certificate-transparency project: the root over the first n of `LEAVES`."""


def hashes(size: int) -> list[bytes]:
    return [leaf_hash(number.to_bytes(2)) for number in range(size)]


def test_the_roots_are_the_published_ones() -> None:
    tree = Tree()
    assert tree.root().hex() == ROOTS[0]
    for size, (leaf, root) in enumerate(zip(LEAVES, ROOTS[1:], strict=True), start=1):
        tree.append_hash(leaf_hash(leaf))
        assert (tree.size, tree.root().hex()) == (size, root)


def recursive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1 word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = max(1 << power for power in range(20) if 1 << power < len(leaves))
    left, right = recursive_root(leaves[:split]), recursive_root(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_the_compact_tree_agrees_with_the_definition_at_every_size() -> None:
    tree = Tree()
    for size, leaf in enumerate(hashes(130)):
        assert tree.root() == recursive_root(hashes(size))
        tree.append_hash(leaf)
