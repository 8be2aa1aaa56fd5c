"""Two processes on this CPU learn together, by torchrun, and give what one would with twice the batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from compression import cli
from tests.compression.test_build import WEIGHTS
from tests.compression.test_recipe_and_data import RECIPE, write_data_set
from tests.compression.tiny_training import main
from tests.running import CHECKOUT


def together(*command: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(port),
        "-m",
    ]
    return subprocess.run(
        [*torchrun, *command], cwd=CHECKOUT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_processes_are_one_with_twice_the_batch(accumulate: int, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    main(one, batch=16)
    options = {"batch": 8 // accumulate, "accumulate": accumulate}
    done = together("tests.compression.tiny_training", str(two), json.dumps(options))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 4 of 4: loss") == 1  # the first alone speaks
    weights = [torch.load(folder / "tiny.pt", weights_only=True) for folder in (one, two)]
    for key, value in weights[0].items():
        assert torch.allclose(value, weights[1][key], atol=1e-5), key
    logs = [json.loads((folder / "tiny.json").read_text()) for folder in (one, two)]
    assert [entry["loss"] for entry in logs[0]] == pytest.approx([entry["loss"] for entry in logs[1]], abs=2e-4)


@pytest.mark.long
def test_a_fault_in_one_process_is_skipped_in_both(tmp_path: Path) -> None:
    done = together("tests.compression.tiny_training", str(tmp_path), json.dumps({"faulty": 6}))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("epoch 2, step 2: the loss is nan; step skipped") == 1
    assert all(torch.isfinite(each).all() for each in torch.load(tmp_path / "tiny.pt", weights_only=True).values())


@pytest.mark.slow
def test_a_killed_group_goes_on_and_no_other_number_of_processes_does(tmp_path: Path) -> None:
    module = "tests.compression.tiny_training"
    assert together(module, str(tmp_path), json.dumps({"kill_at": 6})).returncode != 0
    alone = subprocess.run([sys.executable, "-m", module, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True)
    assert "is of a training in 2 processes, not 1" in alone.stderr
    done = together(module, str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "epoch 2 of 4: loss" in done.stdout
    assert "epoch 1 of 4: loss" not in done.stdout
    (tmp_path / "whole").mkdir()
    main(tmp_path / "whole", batch=16)
    weights = [torch.load(folder / "tiny.pt", weights_only=True) for folder in (tmp_path, tmp_path / "whole")]
    assert all(torch.allclose(value, weights[1][key], atol=1e-5) for key, value in weights[0].items())


@pytest.mark.skipif(
    not (WEIGHTS / "mobilenet_v2_imagenet_folded.npz").exists(),
    reason="the initial weights are not beside the checkout (shared/weights)",
)
@pytest.mark.slow
def test_a_build_by_torchrun_prints_once_and_shares_only_the_training(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data" / "chest-kermany", patients=60)
    given = [
        "build", str(RECIPE), "--quick", "--data", str(tmp_path / "data"), "--weights", str(WEIGHTS),
        "--work", str(tmp_path / "work"), "--key", str(tmp_path / "key.pem"),
    ]  # fmt: skip
    CliRunner().invoke(cli.main, ["keygen", str(tmp_path / "key.pem")], catch_exceptions=False)
    CliRunner().invoke(cli.main, [*given, "--stage", "data"], catch_exceptions=False)
    done = together("compression", *given, "--stage", "train")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("data ")] == ["data       kept"]
    assert sum(line.startswith("train  ") for line in lines) == 1
    log = json.loads((tmp_path / "work-quick" / "train" / "log.json").read_text())
    assert [entry["epoch"] for entry in log] == [1, 2, 3]
    assert sum("epoch 3 of 3: loss" in line for line in lines) == 1
