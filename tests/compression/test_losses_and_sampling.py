"""What a loss makes of a class that is rare or must not be missed, and how often an image is drawn."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch.nn.functional import binary_cross_entropy_with_logits

from compression import data, losses, sampling, train
from compression.architectures.mobilenet_v2 import UNPRUNED, MobileNetV2
from compression.build import Build
from compression.distributed import Group
from compression.loop import Settings
from compression.recipe import RecipeError, read
from tests.compression.test_recipe_and_data import RECIPE, changed, make_build, write_data_set

LABELS = np.array([True] * 10 + [False] * 90)
LOGITS, TRUTH = torch.tensor([2.0, -1.0, 0.5, -3.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])


def test_weights_are_inverse_to_the_frequency_of_a_class() -> None:
    assert float(losses.positive_weight(LABELS)) == 9.0
    assert float(losses.positive_weight(LABELS, missed_cost=3.0)) == 27.0
    # Where both classes are drawn equally often, nothing is left to make good.
    assert float(losses.positive_weight(LABELS, shares=sampling.shares(LABELS))) == pytest.approx(1.0)


def test_a_missed_finding_costs_more_than_a_false_alarm() -> None:
    missed, alarm = torch.tensor([-2.0, 2.0])[:, None]
    weight = losses.positive_weight(np.array([True, False]), missed_cost=5.0)
    one, other = (
        losses.of_finding("bce", logits, label, weight, 2.0)
        for logits, label in ((missed, torch.ones(1)), (alarm, torch.zeros(1)))
    )
    assert float(one / other) == pytest.approx(5.0)


def test_focal_loss_is_the_papers() -> None:
    weight = torch.tensor(3.0)
    plain = binary_cross_entropy_with_logits(LOGITS, TRUTH, pos_weight=weight)
    assert torch.allclose(losses.focal(LOGITS, TRUTH, weight, 0.0), plain)
    p = torch.sigmoid(LOGITS).double().numpy()
    of_truth = np.where(TRUTH.numpy() > 0, p, 1 - p)
    by_hand = np.where(TRUTH.numpy() > 0, 3.0, 1.0) * (1 - of_truth) ** 2 * -np.log(of_truth)
    assert float(losses.focal(LOGITS, TRUTH, weight, 2.0)) == pytest.approx(by_hand.mean(), rel=1e-6)
    far = torch.tensor([60.0, -60.0], requires_grad=True)
    losses.focal(far, torch.tensor([0.0, 1.0]), weight, 2.0).backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(far.grad).all()  # type: ignore[arg-type]


def test_the_loss_of_segments_falls_as_the_drawing_gets_better() -> None:
    wanted = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    wanted[:, :, 2:6, 2:6] = 1
    right = torch.cat([1.0 - wanted, wanted], dim=1) * 20.0 - 10.0
    loss = losses.of_segments()
    assert float(loss(right, wanted)) < 0.01 < 0.5 < float(loss(-right, wanted))


def test_balanced_draws_show_each_class_of_each_site_equally_often() -> None:
    sites = np.array(["a"] * 50 + ["b"] * 50)
    shares = sampling.shares(LABELS, np.roll(sites, 5))
    assert shares.sum() == pytest.approx(1.0)
    drawn = np.concatenate([sampling.order(100, seed, shares) for seed in range(200)])
    for label in (True, False):
        for site in ("a", "b"):
            share = np.mean((LABELS[drawn] == label) & (np.roll(sites, 5)[drawn] == site))
            assert share == pytest.approx(0.25, abs=0.02)
    assert not np.array_equal(sampling.order(100, 1, shares), sampling.order(100, 2, shares))
    assert np.array_equal(sampling.order(100, 1, shares), sampling.order(100, 1, shares))


def test_classes_stay_balanced_where_a_site_has_one_of_them_only() -> None:
    """Site a has 50 images of each class, site b 20 of one."""
    labels, sites = np.repeat([True, False, True], [50, 50, 20]), np.repeat(["a", "a", "b"], [50, 50, 20])
    shares = sampling.shares(labels, sites)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[labels].sum() == pytest.approx(0.5)
    assert shares[sites == "b"].sum() == pytest.approx(0.25)
    assert sampling.of_one_class(labels, sites) == ["b"]
    assert sampling.of_one_class(labels[:100], sites[:100]) == []


def test_uniform_draws_show_each_image_once_and_processes_share_them() -> None:
    order = sampling.order(50, seed=3)
    assert sorted(order) == list(range(50))
    parts = [list(sampling.batches(order, 4, Group(rank, 3))) for rank in range(3)]
    assert [len(part) for part in parts] == [sampling.steps(50, 4, Group(0, 3))] * 3 == [4] * 3
    together = [np.concatenate(group) for group in zip(*parts, strict=True)]
    assert np.array_equal(np.concatenate(together), order[:48])
    assert [list(each) for each in together] == [list(each) for each in sampling.batches(order, 12)]


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ('loss = "dice"', "train.loss"),
        ("missed_cost = 0", "train.missed_cost"),
        ("accumulate = 0", "train.accumulate"),
        ('sampling_column = "site"', "train.sampling_column needs"),
        ("spike = 1.0", "train.spike"),
    ],
)
def test_wrong_keys_of_training_are_named(key: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=word):
        read(changed(tmp_path, "batch = 32", f"batch = 32\n{key}"))


def test_keys_that_are_left_out_change_nothing(tmp_path: Path) -> None:
    keys = 'loss = "bce"\nmissed_cost = 1.0\nsampling = "uniform"\naccumulate = 1\n'
    assert read(changed(tmp_path, "batch = 32", f"batch = 32\n{keys}")).train == read(changed(tmp_path, "[", "[")).train


def test_a_recipe_that_does_not_say_otherwise_clips_and_keeps_the_best_epoch_as_segmentations_do(
    tmp_path: Path,
) -> None:
    lines = [line for line in RECIPE.read_text().splitlines() if not line.startswith(("clip =", "keep ="))]
    (tmp_path / "recipe.toml").write_text("\n".join(lines))
    trained = read(tmp_path / "recipe.toml").train
    usual = Settings(epochs=1, batch=1)
    assert (trained.clip, trained.keep) == (usual.clip, usual.keep) == (1.0, "best")


def test_the_settings_of_the_package_that_ships_are_those_it_was_trained_with() -> None:
    trained = read(RECIPE).train
    assert (trained.clip, trained.keep) == (0.0, "last")


@pytest.mark.parametrize(("keep", "epoch", "score"), [("best", 2, "0.9100"), ("last", 3, "0.8700")])
def test_stage_train_says_which_epoch_it_kept(
    keep: Literal["best", "last"], epoch: int, score: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read(RECIPE)
    started = make_build(replace(recipe, train=replace(recipe.train, keep=keep, weights="")), tmp_path)
    started.folder("train").mkdir(parents=True)
    log = [{"epoch": number, "score": each} for number, each in enumerate((0.85, 0.91, 0.87), start=1)]
    monkeypatch.setattr(train, "_show_augmentation", lambda _: None)
    monkeypatch.setattr(train, "fit", lambda _, network, *__: (network, log))
    assert f"validation AUC {score} of epoch {epoch}, which is kept" in train.run(started)


def balanced_by_site(tmp_path: Path, northern: tuple[int, ...]) -> Build:
    """A build after stage ``data``, whose patients of these numbers modulo 8 come from the north; odd ones are ill."""
    folder = write_data_set(tmp_path / "data" / "chest-kermany", patients=30)
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["site"] = "north" if int(row["patient_id"][1:]) % 8 in northern else "south"
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    recipe = read(RECIPE)
    started = make_build(
        replace(recipe, input=replace(recipe.input, rows=32, columns=32), data=replace(recipe.data, external=()),
                augment=(), train=replace(recipe.train, batch=4, sampling="balanced", sampling_column="site",
                                          loss="focal", missed_cost=4.0, weights="")),
        tmp_path,
    )  # fmt: skip
    started.folder("data").mkdir(parents=True)
    data.run(started)
    return started


@pytest.mark.parametrize(("northern", "warned"), [((1, 3, 5, 6), False), ((1, 3, 5), True)])
def test_stage_train_warns_of_a_site_that_tells_the_label_however_it_is_drawn(
    northern: tuple[int, ...],
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = balanced_by_site(tmp_path, northern)
    started.folder("train").mkdir(parents=True)
    monkeypatch.setattr(train, "_show_augmentation", lambda _: None)
    monkeypatch.setattr(train, "fit", lambda _, network, *__: (network, [{"epoch": 1, "score": 0.5}]))
    train.run(started)
    shown = capsys.readouterr()
    assert ("of one class only, so that it tells the label still: north" in shown.out + shown.err) == warned


def test_a_recipe_balances_classes_and_sites_and_weighs_a_missed_finding(tmp_path: Path) -> None:
    started = balanced_by_site(tmp_path, (1, 3, 5, 6))  # three of four positives come from the north
    sites = data.column(started, "train", "site")
    assert set(sites) == {"north", "south"}
    task = train.Task(started, train.Tuning("test", 1, 1e-3, 5))
    labels = torch.cat([batch[1] for epoch in range(40) for batch in task.batches(epoch)])
    assert float(labels.mean()) == pytest.approx(0.5, abs=0.05)
    network = MobileNetV2(1, 0.0, UNPRUNED)
    found = task.validate(network)
    assert set(found.recall) == {"positive", "negative"}
    assert math.isfinite(found.loss or math.nan)
    with pytest.raises(RecipeError, match=r"manifest\.csv has no column ward"):
        data.column(started, "train", "ward")
