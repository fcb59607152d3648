"""The language of Tenantry: ids, errors, events and one module per aggregate. No I/O, no clock, no randomness."""
