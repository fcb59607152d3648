"""The tree is that of RFC 6962, and its proofs convince of what is true only."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.merkle import (
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

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
        assert tree.append(leaf) == leaf_hash(leaf)
        assert (tree.size, tree.root().hex()) == (size, root)
        assert root_of([leaf_hash(known) for known in LEAVES[:size]]).hex() == root


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


def test_every_leaf_of_every_small_tree_is_proven_in_its_place_only() -> None:
    for size in range(1, 20):
        leaves = hashes(size)
        root = root_of(leaves)
        for index, leaf in enumerate(leaves):
            proof = inclusion_proof(leaves, index)
            assert verify_inclusion(leaf, index, size, proof, root)
            assert not verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
            assert not verify_inclusion(leaf, index, size, (*proof, root), root)
            assert not verify_inclusion(leaf, index, size, proof, leaf_hash(b"other"))
            for elsewhere in set(range(-1, size + 1)) - {index}:
                assert not verify_inclusion(leaf, elsewhere, size, proof, root)
            if proof:
                assert not verify_inclusion(leaf, index, size, proof[:-1], root)


def test_every_small_tree_is_proven_a_beginning_of_every_later_one() -> None:
    for new_size in range(20):
        leaves = hashes(new_size)
        new_root = root_of(leaves)
        for old_size in range(new_size + 1):
            old_root = root_of(leaves[:old_size])
            proof = consistency_proof(leaves, old_size)
            assert verify_consistency(old_size, new_size, old_root, new_root, proof)
            assert not verify_consistency(old_size, new_size, leaf_hash(b"other"), new_root, proof)
            assert not verify_consistency(old_size, new_size, old_root, new_root, (*proof, new_root))
            if old_size > 0:
                assert not verify_consistency(old_size, new_size, old_root, leaf_hash(b"other"), proof)
            if proof:
                assert not verify_consistency(old_size, new_size, old_root, new_root, proof[:-1])
                assert not verify_consistency(old_size, new_size, old_root, new_root, ())


@given(size=st.integers(2, 200), data=st.data())
def test_a_changed_past_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    leaves = hashes(size)
    old_size = data.draw(st.integers(1, size))
    changed = list(leaves)
    changed[data.draw(st.integers(0, old_size - 1))] = leaf_hash(b"changed")
    proof = consistency_proof(changed, old_size)
    assert not verify_consistency(old_size, size, root_of(leaves[:old_size]), root_of(changed), proof)


def test_proofs_are_logarithmic() -> None:
    leaves = hashes(1000)
    assert len(inclusion_proof(leaves, 0)) == 10
    assert len(consistency_proof(leaves, 999)) <= 11


def test_there_is_no_proof_about_what_never_was() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError):
            inclusion_proof(hashes(3), index)
    for size in (-1, 4):
        with pytest.raises(IndexError):
            consistency_proof(hashes(3), size)
    assert not verify_consistency(4, 3, root_of(hashes(4)), root_of(hashes(3)), ())
