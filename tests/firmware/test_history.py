"""What a box remembers, whatever a power cut left of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.firmware.boxes import make_box


@pytest.mark.parametrize("torn", [b'{"at": 1, "event": "go', b"\xc3", b'{"at": 1, "event": "good"}'])
def test_a_line_that_a_power_cut_has_torn_takes_no_other_with_it(tmp_path: Path, torn: bytes) -> None:
    box = make_box(tmp_path)
    box.remember("installed")
    with (box.firmware_data / "history.jsonl").open("ab") as file:
        file.write(torn)
    box.remember("failed")
    box.remember("fell_back")
    whole = ["good"] if torn.endswith(b"}") else []
    assert [line["event"] for line in box.history()] == ["installed", *whole, "failed", "fell_back"]
