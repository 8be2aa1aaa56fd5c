"""Child processes of the appliance: started with its configuration, gone when it is gone.

A child is ``python -m appliance.process MODULE``: it reads the configuration as JSON from standard input and calls
``MODULE.main(config, *fds)`` with inherited file descriptors (a socket to its parent; one to listen on).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import msgspec

from appliance import log
from appliance.config import Config

_PR_SET_PDEATHSIG = 1


def start(module: str, config: Config, *descriptors: int) -> subprocess.Popen[bytes]:
    """Start a child; call it from the main thread, with whose end the child is killed (prctl(2)).

    Raises
    ------
    OSError
        There is no room for it, or it ended before it had read the configuration; nothing of it stays.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance.process", module, str(os.getpid()), *map(str, descriptors)],
        stdin=subprocess.PIPE,
        pass_fds=descriptors,
        start_new_session=True,  # Ctrl-C reaches the parent alone, which stops its children in order
    )
    assert process.stdin is not None
    try:
        with process.stdin as stdin:
            stdin.write(msgspec.json.encode(config))
    except OSError:
        process.kill()
        process.wait()
        raise
    return process


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even by SIGKILL (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def is_readable(what: socket.socket, seconds: float) -> bool:
    """Whether something can be read within so many seconds; unlike select(2), of any file descriptor's number."""
    poll = select.poll()
    poll.register(what, select.POLLIN)
    return bool(poll.poll(max(seconds, 0.0) * 1000))


def give_way(nice: int) -> None:
    """Let the appliance's other processes have a core before this one.

    Linux may share the processor between sessions first (sched(7), autogroup), and each child has one of its own.
    """
    os.nice(nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(f"{nice}")


def be_the_first_to_go() -> None:
    """Where memory runs out the kernel shall end this process, which is replaced, and not the one that receives."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def only_when_idle(pid: int) -> None:
    """Have a process run only where no other wants the processor (SCHED_IDLE of sched(7)).

    Where the kernel groups processes by session, that counts within a session only, and the group gives way besides.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("19")


def _main() -> None:
    name, parent, *descriptors = sys.argv[1:]
    die_with_parent(int(parent))
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=Config)
    log.set_up(config.log.level)
    log.keep(config.log_path)
    import_module(name).main(config, *map(int, descriptors))


if __name__ == "__main__":
    _main()
