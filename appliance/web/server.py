"""gunicorn as a child of ``scanside run``, on the socket that its parent listens on."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from appliance.config import Config
from appliance.process import die_with_parent
from appliance.web.app import create_app

_THREADS = 6


class _Server(BaseApplication):
    """One worker process with threads: the page is for a few people at a time."""

    def __init__(self, config: Config, descriptor: int) -> None:
        self._config, self._descriptor = config, descriptor
        self._arbiter = os.getpid()
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"fd://{self._descriptor}",
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
        for name, value in settings.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self._config)


def main(config: Config, descriptor: int) -> None:
    """Serve until SIGTERM, or until the parent ends."""
    _Server(config, descriptor).run()
