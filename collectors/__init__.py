"""Collecting: what to ask (catalog), how to read the answers (readers), and how to send (transport, session, sign-in).

Readers, tables and throttling are pure; `transport`, `psrp`, `signin` and `session` are the only modules that perform.
"""
