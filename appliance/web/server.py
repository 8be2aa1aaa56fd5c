"""gunicorn as a child of ``scanside run``, on the socket that its parent listens on."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from appliance.config import Config
from appliance.page_certificate import PageFiles
from appliance.process import die_with_parent, give_way
from appliance.web import arrivals
from appliance.web.app import create_app

_NICE = 5
_STALLED_SECONDS = 20  # without a byte
_THREADS = arrivals.MOST_AT_ONCE + 6


class _Server(BaseApplication):
    """One worker process with threads: the page is for a few people at a time."""

    def __init__(self, config: Config, parent: socket.socket, listener: int) -> None:
        self._config, self._parent, self._listener = config, parent, listener
        self._arbiter = os.getpid()
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"fd://{self._listener}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": _THREADS,
            "timeout": 30,
            "graceful_timeout": 5,
            "loglevel": "warning",
            "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,  # noqa: S108, PTH112
            "control_socket_disable": True,
            "post_fork": lambda _server, _worker: die_with_parent(self._arbiter),
        }
        if self._config.web.over_tls:
            files = PageFiles(self._config, makes=False)

            def of_now(_conf: Any, _factory: Any) -> ssl.SSLContext:
                return files.context()  # gunicorn asks for each connection

            settings |= {
                "certfile": str(files.shown.certificate),
                "keyfile": str(files.shown.key),
                "ssl_context": of_now,
            }
        for name, value in settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self._config, self._tell_parent)

    def _tell_parent(self) -> None:
        """There is something new in the ledger. Never blocks: a parent with unread words looks anyway."""
        with contextlib.suppress(OSError):
            self._parent.send(b".", socket.MSG_DONTWAIT)


def main(config: Config, parent: int, listener: int) -> None:
    """Serve until SIGTERM, or until the parent ends."""
    give_way(_NICE)  # many open pages must not keep an image waiting
    # Inherited by each connection: one that neither sends nor reads must not hold a thread for ever.
    with socket.socket(fileno=os.dup(listener)) as listening:
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            listening.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", _STALLED_SECONDS, 0))
    _Server(config, socket.socket(fileno=parent), listener).run()
