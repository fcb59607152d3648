"""The actors, and the only package that knows Ray: `remote` wraps plain cores, `system` builds and connects them."""
