"""What decides whether a system is fit to stay, asked of stand-ins and of real appliances."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance import config
from appliance.ingest.storage_scp import StorageScp
from firmware import health, trial
from firmware.box import Box
from tests.appliance.conftest import Box as Appliance
from tests.certificates import HOUR, Authority
from tests.firmware.boxes import make_box
from tests.firmware.updating import on_trial
from tests.running import RunningAppliance, scanside

FINE = [health.Finding("service", ok=True, detail="runs")]
BROKEN = [health.Finding("receipt", ok=False, detail="none yet"), *FINE]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return make_box(tmp_path / "box")


def answering(**answers: object) -> health.Ask:
    def ask(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        answer = answers.get(arguments[0].replace("-", "_"))
        if answer is None:
            return subprocess.CompletedProcess([], 1, "", "scanside: there is no ledger in /data\n")
        return subprocess.CompletedProcess([], 0, json.dumps(answer), "")

    return ask


WORKER = {"state": "ready", "stale": False, "backend": "onnxruntime", "receipt": {"id": "1"}}
READY = {"running": True, "components": {"worker": WORKER}}
OWN = {
    "peer": "own Storage SCP SCANSIDE@127.0.0.1:11112",
    "checks": [{"what": "C-ECHO", "outcome": "ok", "detail": ""}],
}
UNSERVED = {"model": "lungs", "package": "lungs 1.1.0", "reason": "Bad CRC-32"}
PARTLY = {"running": True, "components": {"worker": {**WORKER, "unserved": [UNSERVED]}}}
PACS_DOWN = {"peer": "destination pacs", "checks": [{"what": "port", "outcome": "fail", "detail": "nothing listens"}]}


def test_a_pacs_that_is_down_never_counts(box: Box) -> None:
    findings = health.examine(box, answering(status=READY, test_connection=[OWN, PACS_DOWN]))
    assert health.fit(findings), findings


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ({"test_connection": [OWN]}, "service"),
        ({"status": READY}, "C-ECHO"),
        ({"status": {**READY, "running": False}, "test_connection": [OWN]}, "service"),
        ({"status": {"running": True, "components": {"worker": {"state": "ready", "stale": False}}},
          "test_connection": [OWN]}, "receipt"),
        ({"status": READY, "test_connection": [{**OWN, "checks": PACS_DOWN["checks"]}]}, "C-ECHO"),
        ({"status": PARTLY, "test_connection": [OWN]}, "model"),
    ],
)  # fmt: skip
def test_what_sends_a_system_back(box: Box, answers: dict[str, object], what: str) -> None:
    findings = health.examine(box, answering(**answers))
    assert not health.fit(findings)
    assert what in {finding.what for finding in findings if not finding.ok}


@pytest.mark.parametrize("when", ["before", "on trial"])
@pytest.mark.parametrize("instead", ["1.0.0", ""])
def test_a_system_on_trial_that_left_the_model_in_force_is_sent_back(box: Box, when: str, instead: str) -> None:
    """The appliance reads with an earlier one then, so that nothing is left unserved."""
    on_trial(box)
    trial.prepare(box)
    at = time.time() + (10 if when == "on trial" else -1000)
    back = {"model": "lungs", "version": instead, "why": "1.1.0 can't be served: Bad CRC-32", "chosen_at": at}
    ask = answering(status={**READY, "fallbacks": [back]}, test_connection=[OWN])
    findings = health.examine(box, ask)
    assert health.fit(findings) == (when == "before")
    if when == "on trial":
        reads = f"{instead or 'nothing'} reads instead on trial"
        assert [each.detail for each in findings if each.what == "model"] == [
            f"lungs 1.1.0 can't be served: Bad CRC-32; {reads}"
        ]
        box.boot().mark_good("b")
        trial.forget(box)
        assert health.fit(health.examine(box, ask))


def test_a_service_that_does_not_run_says_why(box: Box) -> None:
    findings = health.examine(box, answering(status={**READY, "running": False}), lambda: "scanside: the port is taken")
    (service,) = (finding for finding in findings if finding.what == "service")
    assert service.detail == "does not run; its last words: scanside: the port is taken"


def test_a_configuration_that_is_gone_counts(box: Box) -> None:
    box.configuration.unlink()
    assert not health.fit(health.examine(box, answering(status=READY, test_connection=[OWN])))


def test_whether_data_can_be_written_is_not_asked_where_the_appliances_user_may_lay_a_link(box: Box) -> None:
    theirs = box.esp / "loader" / "entries" / "scanside-a.conf"
    before = theirs.read_bytes()
    (box.data / "firmware.probe").symlink_to(theirs)
    findings = health.examine(box, answering(status=READY, test_connection=[OWN]))
    assert health.fit(findings) and theirs.read_bytes() == before
    shutil.rmtree(box.firmware_data)
    box.firmware_data.touch()
    assert not health.fit(health.examine(box, answering(status=READY, test_connection=[OWN])))


def of_the_appliance(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return scanside(*arguments)


ONLY_KNOWN = {"only_modalities": True, "modalities": (config.Modality(ae_title="CT1", address="192.0.2.7"),)}
OTHER_TITLE = {"called_ae_titles": ("RADIOLOGY",)}


def asking_the_scp(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """All else is well."""
    return of_the_appliance(arguments) if arguments[0] == "test-connection" else answering(status=READY)(arguments)


@contextmanager
def serving(box: Box, folder: Path, **settings: object) -> Iterator[None]:
    """A real Storage SCP with these settings, for a box that is configured alike."""
    appliance = Appliance(folder)
    scp = StorageScp(config.StorageScp(host="127.0.0.1", port=0, **settings), appliance.intake)  # type: ignore[arg-type]
    lines = [f"port = {scp.start()}"]
    if "only_modalities" in settings:
        lines += ["only_modalities = true", 'modalities = [{ ae_title = "CT1", address = "192.0.2.7" }]']
    if "called_ae_titles" in settings:
        lines += ['called_ae_titles = ["RADIOLOGY"]']
    text = box.configuration.read_text()
    box.configuration.write_text(text.replace("port = 0", "\n".join(lines)))
    try:
        yield
    finally:
        scp.stop()
        appliance.store.close()


@pytest.mark.parametrize("settings", [ONLY_KNOWN, OTHER_TITLE, {**ONLY_KNOWN, **OTHER_TITLE}])
def test_a_system_is_good_whoever_the_site_lets_in(box: Box, tmp_path: Path, settings: dict[str, object]) -> None:
    with serving(box, tmp_path / "appliance", **settings):
        findings = health.examine(box, asking_the_scp)
    assert health.fit(findings), findings
    assert [each.detail for each in findings if each.what == "C-ECHO"] == ["answered"]


def test_a_system_is_good_without_a_storage_scp(box: Box) -> None:
    text = box.configuration.read_text()
    box.configuration.write_text(text.replace("[storage_scp]", "[storage_scp]\nenabled = false"))
    findings = health.examine(box, asking_the_scp)
    assert health.fit(findings), findings


@pytest.mark.long
def test_an_expired_certificate_is_said_and_sends_nothing_back(box: Box, tmp_path: Path) -> None:
    """Asked of a real appliance, whose page, Storage SCP and destination all have one."""
    authority = Authority(tmp_path / "ca", "hospital")
    old, key = authority.issue("old", begin=-9 * HOUR, end=-HOUR)
    files = f'key = "{key}"\ncertificate = "{old}"\n'
    running = RunningAppliance(
        box.configuration.parent,
        scp=f'[storage_scp.tls]\n{files}ca = "{authority.ca}"\n',
        web=f"[web.tls]\n{files}",
        extra=f'[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n'
        f'[destinations.tls]\nca = "{authority.ca}"\n{files}',
    )
    running.start(timeout=180)
    try:
        running.wait_ready(timeout=120)
        findings = health.examine(box, of_the_appliance)
        assert health.fit(findings), findings
        said = {finding.detail.partition(",")[0].partition(":")[0] for finding in findings if not finding.ok}
        assert said >= {"Storage SCP", "Page", "pacs"}
        assert "has expired" in next(each.detail for each in findings if each.what == "C-ECHO")

        old.write_text("no certificate")
        findings = health.examine(box, of_the_appliance)
        assert not health.fit(findings), "it is there, and its own Storage SCP can't be asked"
    finally:
        running.stop()


@pytest.mark.long
@pytest.mark.parametrize("lacks", ["certificate", "ca"])
def test_a_certificate_that_is_not_there_yet_sends_nothing_back(box: Box, tmp_path: Path, lacks: str) -> None:
    authority = Authority(tmp_path / "ca", "hospital")
    certificate, key = authority.issue("scp")
    (certificate if lacks == "certificate" else authority.ca).unlink()
    tls = f'[storage_scp.tls]\nkey = "{key}"\ncertificate = "{certificate}"\nca = "{authority.ca}"\n'
    running = RunningAppliance(box.configuration.parent, scp=tls)
    running.start(timeout=180)
    try:
        running.wait_ready(timeout=120)
        findings = health.examine(box, of_the_appliance)
    finally:
        running.stop()
    assert health.fit(findings), findings
    assert {"certificate", "C-ECHO"} <= {finding.what for finding in findings if not finding.ok}


def test_a_system_has_time_to_get_ready() -> None:
    looks = iter([BROKEN, BROKEN, FINE])
    assert health.wait_until_fit(lambda: list(next(looks)), 60, pause=0, sleep=lambda _: None) == FINE
