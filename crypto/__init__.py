"""Everything that keeps a secret or proves a record: `Secret`, envelopes, keys, secret stores, the Merkle tree.

No algorithm is configurable here. A format stands in one module, and its version in its first bytes or its `typ`.
"""
