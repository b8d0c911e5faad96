"""How the embedded models were made; no lesson imports it."""
