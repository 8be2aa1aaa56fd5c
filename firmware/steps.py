"""Saying what happens: steps with their time, and progress with the time that is left."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

_EVERY = 0.5  # seconds between two lines of progress


@contextmanager
def complete_step(what: str) -> Iterator[None]:
    """``what`` now, and how long it took once it is done."""
    begin = time.monotonic()
    click.echo(f"{click.style('*', fg='blue')} {what}", err=True)
    yield
    click.echo(f"  {click.style('done', fg='green')} in {time.monotonic() - begin:.1f} s", err=True)


class Progress:
    """Bytes of a task, as lines for people or, with ``as_json``, as JSON lines on standard output."""

    _lock = threading.Lock()  # several disks are written at once

    def __init__(self, what: str, total: int, as_json: bool = False, quiet: bool = False) -> None:
        self._what, self._total, self._json, self._quiet = what, max(total, 1), as_json, quiet
        self._begin = self._said = time.monotonic()
        self._skipped = 0

    def skip(self, count: int) -> None:
        """Bytes that an earlier run has done; they say nothing about the speed."""
        self._skipped = count

    def at(self, count: int, phase: str) -> None:
        """``count`` bytes are done."""
        now = time.monotonic()
        if self._quiet or (now - self._said < _EVERY and count < self._total):
            return
        self._said = now
        rate = (count - self._skipped) / max(now - self._begin, 1e-3)
        left = round((self._total - count) / rate) if rate > 0 else None
        if self._json:
            emit("progress", target=self._what, phase=phase, bytes=count, total=self._total, seconds_left=left)
            return
        wait = f", {left // 60}:{left % 60:02} left" if left is not None else ""
        text = f"{self._what}  {phase:<7} {100 * count // self._total:3} %  {rate / 1e6:6.1f} MB/s{wait}"
        with self._lock:
            click.echo(f"\r{text}\x1b[K" if sys.stderr.isatty() else text, err=True, nl=not sys.stderr.isatty())
            if count >= self._total and sys.stderr.isatty():
                click.echo(err=True)


def emit(event: str, **values: Any) -> None:
    """One JSON line on standard output."""
    with Progress._lock:
        click.echo(json.dumps({"event": event, **values}))
