"""What the events say, as tables to read (fleet, runs), and as a log that proves itself (ledger, verify)."""
