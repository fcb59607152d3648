"""Collecting: what to ask (catalog), how to read the answers (readers), and how to send (transport, session, sign-in).

Readers, tables and throttling are pure. Services are asked by `transport`, `psrp`, `signin` and `egress`, `session` and
`batch` carry the rows to the batch store, and `catalog` reads its files; nothing else performs.
"""
