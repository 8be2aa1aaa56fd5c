"""``python -m compression``."""

from compression.cli import main

main()
