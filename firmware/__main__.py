"""``python -m firmware``."""

from firmware.cli import main

main(prog_name="scanside-firmware")
