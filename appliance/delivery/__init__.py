"""Ways out: the outbox, and one module for each protocol."""
