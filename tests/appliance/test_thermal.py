"""What /sys says of heat, on generated trees of an x86 machine, of a Jetson, and of nonsense."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import health, thermal
from appliance.config import Config, Web
from appliance.store import Store
from appliance.thermal import Thermal, Watch, read
from appliance.web.app import create_app

CPU = "devices/system/cpu"


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() + b"\n" if isinstance(content, str) else content)
    return root


def zone(number: int, kind: str, milli: int | str) -> dict[str, str | bytes]:
    folder = f"class/thermal/thermal_zone{number}"
    return {f"{folder}/type": kind, f"{folder}/temp": str(milli)}


def cooling(number: int, kind: str, state: int | str) -> dict[str, str | bytes]:
    folder = f"class/thermal/cooling_device{number}"
    return {f"{folder}/type": kind, f"{folder}/cur_state": str(state)}


def frequencies(policy: int, limit: int, most: int) -> dict[str, str | bytes]:
    folder = f"{CPU}/cpufreq/policy{policy}"
    return {f"{folder}/scaling_max_freq": str(limit), f"{folder}/cpuinfo_max_freq": str(most)}


def throttled(cpu: int, core: int, package: int) -> dict[str, str | bytes]:
    folder = f"{CPU}/cpu{cpu}/thermal_throttle"
    return {f"{folder}/core_throttle_count": str(core), f"{folder}/package_throttle_count": str(package)}


X86: dict[str, str | bytes] = {
    **zone(0, "acpitz", 27800),
    **zone(1, "INT3400 Thermal", 20000),
    **zone(2, "x86_pkg_temp", 61000),
    **cooling(0, "Processor", 0),
    **cooling(1, "Fan", 3),
    **cooling(2, "intel_powerclamp", -1),
    **cooling(3, "TCC Offset", 5),
    **frequencies(0, 4_200_000, 4_200_000),
    **frequencies(1, 4_200_000, 4_200_000),
    **throttled(0, 3, 7),
    **throttled(1, 2, 7),
}
JETSON: dict[str, str | bytes] = {
    **zone(0, "CPU-therm", 48500),
    **zone(1, "GPU-therm", 46000),
    **zone(2, "AO-therm", -256000),
    **zone(3, "PMIC-Die", 100000),
    **cooling(0, "pwm-fan", 2),
    **cooling(1, "gpu-scaling0", 1),
    **cooling(2, "cpu-throttle-alert", 0),
    **cooling(3, "cpufreq-cpu0", 0),
    **cooling(4, "devfreq-17000000.gpu", 0),
    **frequencies(0, 1_984_000, 1_984_000),
}


def test_an_x86_machine_at_its_full_speed(tmp_path: Path) -> None:
    assert read(tree(tmp_path, X86)) == Thermal(61.0, "x86_pkg_temp", False, "", 5, 7)


def test_a_jetson_at_its_full_speed(tmp_path: Path) -> None:
    found = read(tree(tmp_path, JETSON))
    assert found == Thermal(48.5, "CPU-therm", False, "", None, None)
    assert found.events is None


def test_a_processor_without_a_thermal_zone_has_a_sensor(tmp_path: Path) -> None:
    sensor = {"class/hwmon/hwmon1/name": "k10temp", "class/hwmon/hwmon1/temp1_input": "71250"}
    disk = {"class/hwmon/hwmon0/name": "nvme", "class/hwmon/hwmon0/temp1_input": "90000"}
    found = read(tree(tmp_path, {**zone(0, "acpitz", 30000), **sensor, **disk}))
    assert (found.celsius, found.zone, found.throttling) == (71.25, "k10temp", None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (frequencies(1, 1_200_000, 2_400_000), "the processor is limited to 1.2 of 2.4 GHz"),
        (frequencies(1, 4_190_000, 4_200_000), "the processor is limited to 4.19 of 4.20 GHz"),
        (cooling(0, "Processor", 4), "it is cooled by running slower (Processor)"),
        (cooling(2, "intel_powerclamp", 25), "it is cooled by running slower (intel_powerclamp)"),
        (cooling(4, "devfreq-17000000.gpu", 1), "it is cooled by running slower (devfreq-17000000.gpu)"),
        (cooling(5, "cpu-throttle-alert", 1), "it is cooled by running slower (cpu-throttle-alert)"),
    ],
)
def test_what_slows_the_machine_is_said(change: dict[str, str | bytes], reason: str, tmp_path: Path) -> None:
    found = read(tree(tmp_path, {**X86, **change}))
    assert found.throttling is True
    assert found.reason == reason


def test_the_strictest_limit_and_what_cools_are_said_together(tmp_path: Path) -> None:
    files = {**frequencies(0, 2_000_000, 4_000_000), **frequencies(1, 800_000, 2_400_000), **cooling(0, "Processor", 1)}
    reason = "the processor is limited to 0.8 of 2.4 GHz; it is cooled by running slower (Processor)"
    assert read(tree(tmp_path, files)).reason == reason


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    nothing = Thermal(None, "", None, "", None, None)
    assert read(tmp_path) == nothing
    assert read(tmp_path / "none") == nothing
    fan = tree(tmp_path, {**cooling(0, "Fan", 1), **zone(0, "acpitz", 30000)})
    assert read(fan).throttling is None


def test_counts_that_rose_are_throttling_for_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(thermal.time, "monotonic", lambda: now)
    watch = Watch(tree(tmp_path, X86))
    assert watch.read().throttling is False
    tree(tmp_path, throttled(1, 3, 7))
    assert watch.read().reason == "heat made the processor slower within the last minute"
    now += 59  # another one who looks is told, too
    assert watch.read().throttling is True
    now += 2
    assert watch.read().throttling is False
    tree(tmp_path, throttled(1, 0, 7))  # a processor that was taken off line
    assert watch.read().throttling is False


def test_files_that_cannot_be_read_count_as_not_told(tmp_path: Path) -> None:
    tree(tmp_path, {**X86, **zone(2, "x86_pkg_temp", ""), **zone(0, "acpitz", "hot")})
    (tmp_path / "class/thermal/cooling_device0/cur_state").unlink()
    (tmp_path / "class/thermal/cooling_device0/cur_state").mkdir()
    (tmp_path / f"{CPU}/cpu0/thermal_throttle/core_throttle_count").unlink()
    os.symlink("core_throttle_count", tmp_path / f"{CPU}/cpu0/thermal_throttle/core_throttle_count")
    assert read(tmp_path) == Thermal(20.0, "INT3400 Thermal", False, "", 2, 7)


CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.integers().map(lambda number: str(number).encode()),
    st.sampled_from([b"", b"\n", b"-1", b"nan", b"inf", b"1e3", b"0x10", b"1_0", b"\0\0", b"9" * 5000, "٣".encode()]),
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted({**X86, **JETSON})), CONTENTS))
def test_any_content_has_an_answer(changed: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(tree(Path(folder), {**X86, **JETSON, **changed}))
        for found in (watch.read(), watch.read()):
            assert found.celsius is None or -55 <= found.celsius <= 150
            assert found.zone.isprintable()
            assert bool(found.reason) == bool(found.throttling)
            assert found.events is None or found.events >= 0


@pytest.mark.parametrize(
    ("files", "notice"),
    [(X86, None), ({}, None), ({**JETSON, **frequencies(0, 1_190_000, 1_984_000)}, "limited to 1.2 of 2.0 GHz")],
)
def test_the_device_page_shows_it(
    files: dict[str, str | bytes], notice: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_watch", Watch(tree(tmp_path / "sys", files)))
    config = Config(data_dir=str(tmp_path / "data"), web=Web())
    Store(config.ledger_path).close()
    client = create_app(config).test_client()
    page, status = client.get("/device").get_data(as_text=True), client.get("/api/v1/status").get_json()
    assert ("This machine runs slower than it can" in page) == (notice is not None)
    assert notice is None or notice in page
    assert status["throttling"] == (notice is not None if files else None)
    assert ("throttling" in [each["name"] for each in status["problems"]]) == (notice is not None)
    assert status["temperature_celsius"] == {len(X86): 61.0, 0: None}.get(len(files), 48.5)
