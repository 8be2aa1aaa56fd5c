"""Stage ``train``: one network for each fold, its best validation weights."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from appliance.preprocess import preprocess
from compression import checkpoint, diagnosis, distributed, loop, losses, sampling
from compression.contact_sheet import NAME
from compression.segmentation import augment, cases, contact_sheet, overlap
from compression.segmentation.cases import Prepared
from compression.unet import UNet, unpruned

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("input", "network", "train", "augment", "augment_policy")
DISTRIBUTED = True


def run(build: Build) -> str:
    if build.group.main:
        _show_augmentation(build)
    each_fold(build, _train)
    scores = [max(entry["score"] for entry in log(build, fold)) for fold in folds(build)]
    return f"validation Dice {', '.join(f'{score:.4f}' for score in scores)}"


def _show_augmentation(build: Build) -> None:
    """Write the contact sheet before hours of training, and say where copies show a segment no longer."""
    sheet = contact_sheet.of_recipe(build.recipe, build.data_root)
    path = contact_sheet.write(sheet, build.work / NAME)
    tqdm.write(f"train: augmented copies to look at: {path}")
    for each in contact_sheet.warnings(sheet):
        tqdm.write(f"train: warning: {each}")


def folds(build: Build) -> range:
    return range(build.recipe.data.cross_validated)


def load(build: Build, fold: int) -> UNet:
    """The trained network of a fold, unpruned, in evaluation mode."""
    return read(build, build.folder("train") / f"fold-{fold}.pt")


def read(build: Build, path: Path) -> UNet:
    return UNet.from_state(torch.load(path, weights_only=True), build.recipe.network.dropout).eval()


def log(build: Build, fold: int) -> list[dict[str, Any]]:
    """One entry for each epoch."""
    entries: list[dict[str, Any]] = json.loads((build.folder("train") / f"fold-{fold}.json").read_text())
    return entries


def each_fold(build: Build, work: Callable[[Build, int], None]) -> None:
    """Call ``work`` for each fold: as many at once as there are threads, and those that are left on all threads."""
    every = folds(build)
    at_once = min(build.threads, len(every)) if build.group.size == 1 else 1
    together = 0 if at_once == 1 else len(every) - len(every) % at_once
    if together:
        _side_by_side(build, work, every[:together], at_once)
    distributed.use_threads(max(build.threads // build.group.size, 1))
    for fold in every[together:]:
        work(build, fold)


def _side_by_side(build: Build, work: Callable[[Build, int], None], chosen: range, at_once: int) -> None:
    pool = ProcessPoolExecutor(at_once, get_context("spawn"))
    with checkpoint.ending():
        try:
            left, running = list(chosen), set[Future[None]]()
            while left or running:  # no fold waits in the pool, where one that is told to stop would begin it
                while left and len(running) < at_once:
                    running.add(pool.submit(_alone, build, work, left.pop(0)))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            for process in active_children():  # each saves where it stands and ends
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(build: Build, work: Callable[[Build, int], None], fold: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's, which tells
    torch.set_num_threads(1)
    work(build, fold)


def _train(build: Build, fold: int) -> None:
    recipe, folder = build.recipe, build.folder("train")
    done = folder / f"fold-{fold}.pt"
    if done.exists():
        return
    torch.manual_seed(recipe.data.seed + fold)
    network = UNet(
        len(recipe.input.shape),
        len(recipe.package.segments),
        recipe.network.dropout,
        unpruned(recipe.network.width, recipe.network.levels),
    )
    tune(build, fold, network, recipe.train, f"fold {fold}", folder / f"fold-{fold}")


def tune(build: Build, fold: int, network: UNet, settings: loop.Settings, name: str, path: Path) -> None:
    """Train a network on a fold and write it to ``path`` with the suffix .pt, its log with .json."""
    network = network.to(memory_format=_layout(build))
    task = Task(build, fold, settings.batch)
    tuned, entries = loop.fit(task, network, settings, path.with_suffix(".checkpoint"), name, fold, build.group)
    if build.group.main:
        path.with_suffix(".json").write_text(json.dumps(entries))
        checkpoint.save(path.with_suffix(".pt"), tuned.state_dict())
    build.group.wait()


class Task:
    """Drawing the segments of one fold's training cases; see `compression.loop.Task`."""

    measure = "validation Dice"
    ignored = diagnosis.SEGMENT_IGNORED

    def __init__(self, build: Build, fold: int, batch: int) -> None:
        found, prepared = cases.load(build)
        parts = cases.split(build, found, fold)
        self._build, self._batch = build, batch
        self._seed = build.recipe.data.seed + 100 * fold
        self._training = prepared.where(parts["train"])
        self._validation = prepared.where(parts["validation"])
        self._loss = losses.of_segments()

    def steps(self) -> int:
        return sampling.steps(len(self._training), self._batch, self._build.group)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        seed, group, recipe = self._seed + epoch, self._build.group, self._build.recipe
        dimensions = self._training.labels.ndim - 1
        change = augment.compose(recipe.augment, recipe.augment_policy, dimensions, seed + 100_000 * group.rank)
        for chosen in sampling.batches(sampling.order(len(self._training), seed), self._batch, group):
            changed = [change(self._training.pixels[each], self._training.labels[each]) for each in chosen]
            pixels, labels = zip(*changed, strict=True)
            yield inputs(self._build, pixels), torch.from_numpy(np.stack(labels)[:, None].astype(np.int64))

    def loss(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        given, wanted = batch
        # Of float32 whatever the network computes in: a sum over a volume needs its digits.
        loss: Tensor = self._loss(network(given)[0].float(), wanted)
        return loss

    def validate(self, network: nn.Module) -> loop.Validation:
        """Mean Dice coefficient over cases and segments, on the network's grid, and that of each segment."""
        drawn, segments = draw(self._build, network, self._validation), self._build.recipe.package.segments
        pairs = zip(drawn, self._validation.labels, strict=True)
        found = np.array([overlap.dice(one, other, len(segments)) for one, other in pairs])
        by_name = zip(segments, found.mean(axis=0), strict=True)
        return loop.Validation(float(found.mean()), recall={each.label: float(value) for each, value in by_name})


def inputs(build: Build, pixels: Sequence[np.ndarray]) -> Tensor:
    """Prepared cases after the rest of the device's steps: float32 ``(batch, 1, ...)``."""
    steps = build.recipe.input.late()
    stacked = torch.from_numpy(np.concatenate([preprocess(each, steps) for each in pixels]))
    return stacked.to(memory_format=_layout(build))


def _layout(build: Build) -> torch.memory_format:
    """Channels last: convolutions on a CPU are much faster so."""
    return torch.channels_last if len(build.recipe.input.shape) == 2 else torch.channels_last_3d


@torch.no_grad()
def draw(build: Build, network: nn.Module, prepared: Prepared) -> np.ndarray:
    """The most probable label of each voxel, uint8 ``(cases, ...)``."""
    network.eval()
    device = distributed.device_of(network)
    return np.concatenate([
        network(inputs(build, [pixels]).to(device))[0].argmax(1).cpu().numpy().astype(np.uint8)
        for pixels in prepared.pixels
    ])  # fmt: skip
