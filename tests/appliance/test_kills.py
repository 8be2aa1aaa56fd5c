"""SIGKILL at random points of receiving and working: what was acknowledged is there, whole, and once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.kills.run import Plan, Warm, kill_again_and_again
from tests.kills.verdict import Verdict
from tests.peers import needs, small_disk

MIB = 1 << 20


def _survives(root: Path, data: Path, plan: Plan) -> Verdict:
    for program in ("storescu", "dcmsend", "storescp"):
        needs(program)
    verdict = kill_again_and_again(root, data, plan, Warm)
    assert verdict.faults == [], f"{plan}: {verdict}"
    assert verdict.instances >= verdict.acknowledged + verdict.dropped > 0
    assert verdict.at_the_peer > 0
    return verdict


@pytest.mark.long
def test_30_times_sigkill(tmp_path: Path) -> None:
    _survives(tmp_path, tmp_path / "box", Plan(points=30, seed=random.randrange(10**6), longest=0.8))


@pytest.mark.long
def test_sigkill_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        plan = Plan(points=6, seed=random.randrange(10**6), radiograph=(400, 350), ballast=52 * MIB)
        verdict = _survives(tmp_path, disk / "box", plan)
    assert "Refused: OutOfResources" in verdict.refused
