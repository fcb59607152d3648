"""The vault: which release is allowed, the keyholder process that holds the only keys, and its clients."""
