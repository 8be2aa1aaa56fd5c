"""``scanside run``: every part in the foreground, and the children watched.

This process receives (Storage SCP, drop folder) and delivers; the worker and the page are children, so that neither
a broken image nor a busy page can stop a scanner from being answered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from types import FrameType
from typing import Any, Literal

from appliance import (
    __version__,
    audit_proof,
    diagnosis_listener,
    listening,
    notify,
    process,
    proof,
    signature,
    startable,
    takeover,
)
from appliance import log as log_file
from appliance.accounts import Accounts
from appliance.audit import Record, Trail
from appliance.audit_syslog import AuditSyslog
from appliance.config import LOOPBACK, Config
from appliance.delivery.outbox import Outbox
from appliance.door import Door
from appliance.errors import ApplianceError, SpoolError
from appliance.housekeeping import Housekeeping
from appliance.ingest import Intake
from appliance.ingest.drop_folder import DropFolder
from appliance.ingest.storage_scp import StorageScp
from appliance.page_certificate import PageFiles
from appliance.safety_watch import SafetyWatch
from appliance.sampler import Sampler
from appliance.shadow.store import ShadowStore
from appliance.silence_watch import SilenceWatch
from appliance.spool import Spool
from appliance.store import claimant

log = logging.getLogger("scanside.run")

_WATCH_SECONDS = 0.5
_SAY_EVERY = 10  # rounds of the watch
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds before a child is started again; it doubles each time
_STOP_SECONDS = 10.0
_WHERE_IT_ANSWERS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (of a page that listens on every address)
_PAGE_START_SECONDS = 120.0  # a slow or busy machine takes its time, and scanners are answered meanwhile


class Appliance:
    """All parts on one data folder; only one appliance may have it at a time."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = threading.Event()
        startable.check(config)  # what can't be right on any day is refused before there is a data folder
        proof.options(config)
        self._lock = takeover.lock(config.data)
        log_file.keep(config.log_path)
        takeover.clean(config)
        signature.load_or_create_private_key(config.key_path)
        self._store = takeover.ledger(config)
        self._trail = Trail(config.audit_path, config.key_path)
        self._syslog = AuditSyslog(config, config.audit.syslog) if config.audit.syslog is not None else None
        self._page_files = PageFiles(config, makes=True) if config.web.enabled and config.web.over_tls else None
        self._worker = Child("worker", "appliance.worker", config)
        self._dead_workers: list[int] = []
        self._leases: dict[tuple[int, float], float] = {}  # since when the watch sees each of the worker's claims
        self._shadow = Shadow(config) if config.shadow.enabled else None
        self._web: Child | None = None
        self._page_url, self._page_answers = "", False
        self._diagnoses: Child | None = None
        self._diagnoses_door = Door("the listener for diagnoses", self._listen_to_diagnoses)
        self._outbox = Outbox(config, self._store, config.results_path, self._trail)
        spool = Spool(config.spool_path)
        intake = Intake(spool, self._store, self._worker.wake)
        on_report = self._outbox.take_report if self._outbox.asks_for_commitment else None
        scp = StorageScp(config.storage_scp, intake, config.data, on_report, self._trail)
        self._scp = scp if config.storage_scp.enabled else None
        self._scp_door = Door("the Storage SCP", scp.start)
        self._drop = DropFolder(config.drop_folder, config.drop_path, intake) if config.drop_folder.enabled else None
        self._housekeeping = Housekeeping(config, self._trail)
        self._safety = SafetyWatch(config, self._trail)
        self._sampler = Sampler(config)
        self._started_at = time.time()
        self._silence = SilenceWatch(config, self._store, self._started_at) if config.silence.enabled else None

    def run(self) -> None:
        """Until SIGTERM or Ctrl-C; then stop receiving first, and let the worker finish what it has begun."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        try:
            self._start()
            rounds = 0
            while not self._stop.wait(_WATCH_SECONDS):
                self._watch()
                self._watch_page()
                if self._diagnoses:
                    self._diagnoses.restart_if_dead()
                notify.tell("WATCHDOG=1")
                if self._shadow:
                    self._shadow.look()
                rounds += 1
                if rounds % _SAY_EVERY == 0:
                    if self._web and not self._page_answers:
                        self._look_for_page()
                    self._look_at_doors()
                    self._say()
        finally:
            self._shut_down()

    def _ask_to_stop(self, number: int, _: FrameType | None) -> None:
        log.info("stopping (%s)", signal.Signals(number).name)
        self._stop.set()

    def _start(self) -> None:
        self._look_at_trail()
        self._record("start", f"Scanside {__version__}")
        if self._syslog:
            self._syslog.start()
        self._worker.on_message = self._outbox.wake
        self._worker.start()
        ready = [f"data {self._config.data}"]
        if self._config.web.enabled:
            listener = _listen(self._config.web.host, self._config.web.port, "the page", "web.port")
            port = listener.getsockname()[1]
            self._web = Child("page", "appliance.web.server", self._config, listener)
            self._web.on_message = self._worker.wake
            self._web.start()
        self._look_at_doors()
        if self._diagnoses_door.port:
            given = self._config.diagnoses
            over = " over TLS" if given.tls else ""
            ready.insert(0, f"diagnoses by HL7 {given.host}:{self._diagnoses_door.port}{over}")
        self._outbox.start()
        if self._drop:
            self._drop.start()
            ready.insert(0, f"drop folder {self._config.drop_path}")
        if self._scp_door.port:
            scp = self._config.storage_scp
            ready.insert(0, f"DICOM {scp.ae_title}@{scp.host}:{self._scp_door.port}{' over TLS' if scp.tls else ''}")
        if self._config.web.enabled:
            host = _WHERE_IT_ANSWERS.get(self._config.web.host, self._config.web.host)
            scheme = "https" if self._page_files else "http"
            self._page_url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
            self._wait_for_page()
            if self._page_answers:
                ready.insert(0, f"page {self._page_url}")
        self._say()
        self._safety.start()
        self._housekeeping.start()
        self._sampler.start()
        log.info("ready: %s", ", ".join(ready))
        notify.tell("READY=1")

    def _look_at_doors(self) -> None:
        """Listen where that is configured and not done yet."""
        if self._config.diagnoses.enabled:
            self._diagnoses_door.look()
        if self._scp:
            self._scp_door.look()

    def _listen_to_diagnoses(self) -> int:
        """The port; raises `ApplianceError`."""
        given = self._config.diagnoses
        diagnosis_listener.tls_files(self._config)
        listener = _listen(given.host, given.port, "the listener for diagnoses", "diagnoses.port")
        self._diagnoses = Child("listener for diagnoses", "appliance.diagnosis_listener", self._config, listener)
        self._diagnoses.restart_if_dead()  # its files may serve only while scanners are answered already
        return int(listener.getsockname()[1])

    def _look_at_trail(self) -> None:
        """A trail that is not the one of the last run is said at once; `scanside audit verify` looks at all of it."""
        noted = self._store.components().get(audit_proof.COMPONENT, {}).get("head")
        head = self._trail.head()
        if noted and (head is None or head["number"] < noted["number"]):
            log.error(
                "the audit trail ends with record %d, and had %d once: somebody has cut it or put an old one there",
                head["number"] if head else 0,
                noted["number"],
            )

    def _record(self, event: Literal["start", "stop"], action: str) -> None:
        self._trail.append(Record(time.time(), event, action))

    def _invite(self, port: int) -> None:
        """Say what a browser is shown, and with which code the first account is made, where others reach the page."""
        if self._page_files:
            shown = self._page_files.shown
            kind = "made by this device" if shown.own else str(shown.certificate)
            log.info("certificate of the page (%s): SHA-256 %s", kind, shown.fingerprint)
        accounts = Accounts(self._config.ledger_path)
        try:
            # The console of a box has its code, which would count no more each time this process starts.
            is_asked = self._config.web.host not in LOOPBACK and not self._config.box.report
            if is_asked and not accounts.store.any_account():
                log.warning(
                    "nobody can use the page yet: open https://THIS-DEVICE:%d/enrol and make the first account with "
                    "the one-time code %s",
                    port,
                    accounts.new_code(),
                )
        finally:
            accounts.close()

    def _wait_for_page(self) -> None:
        """Until it answers. Scanners are answered meanwhile, and also without it: it is looked for again later."""
        deadline = time.monotonic() + _PAGE_START_SECONDS
        while not self._stop.is_set():
            self._look_for_page()
            if self._page_answers:
                return
            self._watch()
            self._watch_page()
            if time.monotonic() > deadline:
                log.error("the page at %s does not answer; all else goes on without it", self._page_url)
                return
            self._stop.wait(0.05)

    def _look_for_page(self) -> None:
        """Whether it answers by now, for the first time: then people are invited to it."""
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # whether it answers, not who it is
        try:
            with urllib.request.urlopen(f"{self._page_url}healthz", timeout=2, context=trusting):  # noqa: S310 (ours)
                pass
            self._invite(urllib.parse.urlsplit(self._page_url).port or 0)
        except (OSError, SpoolError):
            return
        self._page_answers = True

    def _watch(self) -> None:
        try:
            self._watch_worker()
        except SpoolError as error:  # it goes on receiving, or saying so; the next round looks again
            log.error("the worker can't be watched: %s", error)

    def _watch_page(self) -> None:
        if self._web and self._web.restart_if_dead() is not None:
            try:
                self._store.abort_open_transfers(("stow", "upload"))
            except SpoolError as error:  # series that wait for them are read once they have been quiet for a while
                log.error("that uploads broke off is not recorded: %s", error)

    def _watch_worker(self) -> None:
        dead = self._worker.restart_if_dead()
        if dead is not None:
            self._dead_workers.append(dead)
        while self._dead_workers:  # each stays until its crash is counted, which a full disk may put off
            released = self._store.release_crashed(claimant(self._dead_workers[0]))
            del self._dead_workers[0]
            log.error("the worker stopped over %d instances", released)
        if self._worker.pid is not None and self._is_overdue(claimant(self._worker.pid)):
            log.error("the worker has held an instance for longer than its lease; it is stopped")
            self._worker.kill()

    def _is_overdue(self, owner: str) -> bool:
        """Whether a claim has been held for longer than its lease, by a clock that nobody sets: an image is not to
        blame for a step of the other one."""
        now = time.monotonic()
        self._leases = {lease: self._leases.get(lease, now) for lease in self._store.leases(owner)}
        return any(now - since > self._config.inference.lease_seconds for since in self._leases.values())

    def _say(self) -> None:
        config, say = self._config, self._store.set_component
        try:
            say("appliance", {"started_at": self._started_at, "version": __version__, "pid": os.getpid()})
            if self._silence:
                say("silence", self._silence.look())
            if self._scp:
                scp = config.storage_scp
                said = _said_of(self._scp_door, scp.port)
                say("storage_scp", {**said, "ae_title": scp.ae_title, "host": scp.host})
                say("storage_commitment", self._scp.storage_commitment())
            say(
                audit_proof.COMPONENT,
                {
                    "head": self._trail.head(),
                    "syslog": self._syslog.say() if self._syslog else None,
                    **self._housekeeping.trail,
                },
            )
            say("retention", {"kept": self._housekeeping.kept})
            say("housekeeping", {"obstacles": self._housekeeping.obstacles()})
            if self._web:
                shown: dict[str, Any] = {}
                if self._page_files:
                    made = self._page_files.look()
                    until = made.not_after.timestamp()
                    shown = {"fingerprint": made.fingerprint, "own": made.own, "not_after": until}
                say("page", {"state": "ready" if self._page_answers else "waiting", **shown})
            if config.diagnoses.enabled and (self._diagnoses is None or self._diagnoses.pid is not None):
                said = _said_of(self._diagnoses_door, config.diagnoses.port)
                say("diagnoses", {**said, "host": config.diagnoses.host})
            if self._drop:
                drop = {"path": str(config.drop_path), "problems": self._drop.problems}
                say("drop_folder", {"state": "ready", **drop, "watch_problem": self._drop.watch_problem})
            say(
                "delivery",
                {"state": "ready", "destinations": [destination.name for destination in config.destinations]},
            )
        except ApplianceError as error:  # a full disk must not stop the appliance from saying so to scanners
            log.error("the state of the parts can't be written: %s", error)

    def _shut_down(self) -> None:
        notify.tell("STOPPING=1")
        for part in (self._scp, self._drop):
            if part:
                part.stop()
        # The shadow gets little processor time, so it is waited for last.
        children = [each for each in (self._diagnoses, self._worker, self._web, self._shadow) if each]
        for child in children:
            child.ask_to_stop()
        for child in children:
            child.stop()
        self._safety.stop()
        self._housekeeping.stop()
        self._sampler.stop()
        self._outbox.stop()
        self._record("stop", f"Scanside {__version__}")
        if self._syslog:
            self._syslog.stop()
        self._trail.close()
        self._store.close()
        self._lock.close()


class Child:
    """A child process, joined to this one by a pair of sockets, started again when it dies.

    Parameters
    ----------
    listener
        A socket that the child inherits besides, to listen on.
    """

    def __init__(self, name: str, module: str, config: Config, listener: socket.socket | None = None) -> None:
        self._name, self._module, self._config, self._listener = name, module, config, listener
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None
        self._started_at = 0.0
        self._pause = _SHORTEST_PAUSE
        self._start_at = 0.0
        self.on_message: Callable[[], None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Raises `OSError` or `RuntimeError` where the system has no room for another process or thread."""
        self._started_at = time.monotonic()
        self._ours, theirs = socket.socketpair()
        inherited = [theirs, self._listener] if self._listener is not None else [theirs]
        with theirs:
            try:
                name = f"{self._name}-messages"
                threading.Thread(target=self._listen, args=(self._ours,), daemon=True, name=name).start()
                self._process = process.start(self._module, self._config, *(each.fileno() for each in inherited))
            except BaseException:
                self._ours.close()
                raise

    def _listen(self, ours: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a child that died, or never began; the watch starts it again
            while ours.recv(4096):
                if self.on_message:
                    self.on_message()

    def wake(self) -> None:
        """Tell the child that there is work. Never blocks: one that has not read the last words is awake anyway."""
        if self._ours is not None:
            try:
                self._ours.send(b".", socket.MSG_DONTWAIT)
            except OSError:
                return  # dead (it is started again and looks by itself) or with a full buffer

    def restart_if_dead(self, wanted: bool = True) -> int | None:
        """Start the child again if it has died, after a pause that grows; the dead one's process id, once.

        One that is not ``wanted`` any more ends by itself, and is left at that.
        """
        if self._process is None:
            if wanted and time.monotonic() >= self._start_at:
                self._try_to_start()
            return None
        code = self._process.poll()
        if code is None:
            return None
        if code == 0 and not wanted:
            self._process = None
            return None
        dead = self._process.pid
        if time.monotonic() - self._started_at > _LONGEST_PAUSE:  # it ran well before
            self._pause = _SHORTEST_PAUSE
        log.error("the %s stopped (exit code %d); starting it again in %.0f s", self._name, code, self._pause)
        self._process = None
        self._wait_longer()
        return dead

    def _try_to_start(self) -> None:
        """Processes, memory or descriptors may be short for a while: the caller receives, and goes on meanwhile."""
        try:
            self.start()
        except (OSError, RuntimeError) as error:
            log.error("the %s can't be started: %s; trying again in %.0f s", self._name, error, self._pause)
            self._wait_longer()

    def _wait_longer(self) -> None:
        self._start_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    def ask_to_stop(self) -> None:
        if self._process:
            self._process.terminate()

    def stop(self) -> None:
        self.ask_to_stop()
        if self._process is None:
            return
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("the %s did not stop in %.0f s and is killed", self._name, _STOP_SECONDS)
            self._process.kill()
            self._process.wait()
        if self._ours is not None:
            self._ours.close()


class Shadow:
    """The process of a package in shadow: there while one is, started again when it dies, and stops by itself."""

    def __init__(self, config: Config) -> None:
        self._store = ShadowStore(config.ledger_path, read_only=True)
        self._child = Child("shadow", "appliance.shadow.runner", config)
        self._wanted = False

    def look(self) -> None:
        """Start it where it is to run, and isn't."""
        try:
            self._wanted = self._store.running() is not None
        except SpoolError as error:  # the other parts say so, too
            log.debug("the shadow can't be watched: %s", error)
            return
        if self._wanted or self._child.pid is not None:
            self._child.restart_if_dead(self._wanted)

    def ask_to_stop(self) -> None:
        self._child.ask_to_stop()

    def stop(self) -> None:
        self._child.stop()
        self._store.close()


def _said_of(door: Door, port: int) -> dict[str, Any]:
    return {"state": "closed" if door.problem else "ready", "port": door.port or port, "problem": door.problem}


def _listen(host: str, port: int, who: str, key: str) -> socket.socket:
    """A listening socket; waits a moment for the port, which a killed run's child may still hold."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + 3.0
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            if time.monotonic() > deadline:
                raise ApplianceError(
                    f"{who} can't listen on {host}:{port}: {error.strerror}",
                    hint=listening.hint(
                        error, port, f"stop what uses that port, or set {key} in the configuration (0 takes a free one)"
                    ),
                ) from error
            time.sleep(0.1)


def run(config: Config) -> None:
    """Run the appliance until it is told to stop."""
    Appliance(config).run()
