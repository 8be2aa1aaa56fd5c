"""Probe one backend and print why it can't be used; nothing where it can."""

from __future__ import annotations

import os
import sys

from appliance import backends


def main(name: str) -> None:
    # Drivers print what they like; the answer keeps standard output to itself.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with answers:
        answers.write(backends.module(name).probe(backends.device(name)) or "")


if __name__ == "__main__":
    main(sys.argv[1])
