"""The `tenantry` command: one module per group of commands, each a thin form around what the packages do."""
