"""A Microsoft 365 to run against: Entra ID, Graph, Exchange and Key Vault on loopback HTTPS.

It knows nothing about the programs that use it, and satisfies clients that are not ours.
"""
