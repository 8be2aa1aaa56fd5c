"""What a build remembers of its stages: whole or not there on a full disk, and made with which libraries."""

from __future__ import annotations

import ast
import json
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from compression import build as classification
from compression import external, inference, stages
from compression.recipe import RecipeError
from compression.recipe import read as read_classification
from compression.segmentation import build as segmentation
from compression.segmentation.recipe import read as read_segmentation
from compression.stages import Build, Stage
from tests.running import CHECKOUT

STEP = "step"


@contextmanager
def a_full_disk(left: int = 0) -> Iterator[None]:
    """Files may not grow beyond ``left`` bytes: a write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Step(ModuleType):
    """A stage that keeps what an interrupted run left, and counts."""

    SECTIONS = ()

    def __init__(self, name: str = STEP) -> None:
        super().__init__(name)
        self.__file__ = __file__
        self.runs, self.content = 0, b"a"
        self.meanwhile: Callable[[], object] = lambda: None

    def fingerprint(self, _: Build) -> bytes:
        return self.content

    def run(self, build: Build) -> str:
        self.runs += 1
        (build.folder(self.__name__) / "long work").touch()
        self.meanwhile()
        return f"run {self.runs}"


@pytest.fixture
def build(tmp_path: Path) -> Build:
    key = Ed25519PrivateKey.generate()
    return Build(None, tmp_path / "recipe.toml", tmp_path, tmp_path, tmp_path / "work", key, tmp_path)


def run(build: Build, step: Step, adopt: tuple[str, ...] = ()) -> None:
    stages.run(build, [Stage(STEP, step, 1)], None, (), adopt)


def test_a_disk_that_is_full_at_a_stage_s_end_is_named_and_the_next_build_goes_on(build: Build) -> None:
    step, mark = Step(), build.work / STEP / "done.json"
    full = a_full_disk()
    step.meanwhile = full.__enter__
    try:
        with pytest.raises(RecipeError, match=r"done\.json can't be written: File too large; make room"):
            run(build, step)
    finally:
        full.__exit__(None, None, None)
    assert [path.name for path in mark.parent.iterdir() if path.suffix == ".tmp"] == []
    assert not mark.exists()
    step.meanwhile = lambda: None
    run(build, step)
    run(build, step)
    assert step.runs == 2


@pytest.mark.parametrize("left", [b"", b'{"key": "a', b"\xff\xfe", b"[]", b"{}"])
def test_a_stage_whose_mark_can_t_be_read_counts_as_not_done(left: bytes, build: Build) -> None:
    step, mark = Step(), build.work / STEP / "done.json"
    run(build, step)
    mark.write_bytes(left)
    run(build, step)
    assert step.runs == 2
    assert (mark.parent / "long work").exists()
    run(build, step)
    assert step.runs == 2


def test_a_full_disk_while_a_stage_is_adopted_leaves_what_it_had_made(build: Build) -> None:
    step = Step()
    run(build, step)
    step.content = b"b"
    with a_full_disk(), pytest.raises(RecipeError, match="begun can't be written"):
        run(build, step, adopt=(STEP,))
    run(build, step, adopt=(STEP,))
    run(build, step)
    assert step.runs == 1
    assert (build.work / STEP / "long work").exists()


ALL = pytest.mark.parametrize("made", [classification.STAGES, segmentation.STAGES], ids=["image", "mask"])
LEARNED = {"data", "train", "prune", "choose", "volumes", "export"}


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Other versions of libraries, those of the real ones where none is named."""
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name.replace("-", "_")) or real(name))


@ALL
@pytest.mark.parametrize("library", ["onnxruntime", "openvino", "nncf", "neural_compressor", "torch"])
def test_another_library_that_quantizes_or_runs_networks_makes_its_stages_again_and_trains_nothing(
    made: Sequence[Stage], library: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {stage.name: Step(stage.name) for stage in made}
    mine = [Stage(stage.name, steps[stage.name], 1, (), stage.libraries) for stage in made]
    stages.run(build, mine, None, (), ())
    install(monkeypatch, **{library: "0.0.1"})
    stages.run(build, mine, None, (), ())
    again = {name for name, step in steps.items() if step.runs == 2}
    assert again == (set() if library == "torch" else steps.keys() - LEARNED)


@pytest.mark.parametrize(
    ("made", "read", "name"),
    [
        (classification.STAGES, read_classification, "chest-pneumonia"),
        (segmentation.STAGES, read_segmentation, "lungs"),
    ],
)
def test_an_external_set_that_is_added_is_measured_and_trains_nothing_anew(
    made: Sequence[Stage], read: Callable[[Path], Any], name: str, build: Build
) -> None:
    recipe = read(CHECKOUT / "models" / name / "recipe.toml")
    steps = {stage.name: Step(stage.name) for stage in made}
    for stage in made:
        steps[stage.name].__dict__["SECTIONS"] = stage.module.SECTIONS
    steps["evaluate"].__dict__["fingerprint"] = external.fingerprint
    for folder in (near := recipe.data.external[0], "far", "as-far"):
        (build.data_root / folder).mkdir()
        (build.data_root / folder / "manifest.csv").write_text(f"file,label\n{folder == near}.png,\n")
    again = []
    for sets in ((near,), (near, "far"), (near, "as-far"), (near, "as-far")):
        build.recipe = replace(recipe, data=replace(recipe.data, external=sets))
        before = {name: step.runs for name, step in steps.items()}
        stages.run(build, [Stage(name, step, 1) for name, step in steps.items()], None, (), ())
        again.append([name for name, step in steps.items() if step.runs > before[name]])
    assert again == [list(steps), ["evaluate", "report", "pack"], ["evaluate", "report", "pack"], []]


@ALL
def test_what_runs_networks_is_among_the_sources_of_each_stage_that_does(made: Sequence[Stage]) -> None:
    for stage in made:
        nodes = [node for node in ast.walk(ast.parse(Path(str(stage.module.__file__)).read_text()))
                 if isinstance(node, ast.ImportFrom) and node.module == "compression.inference"]  # fmt: skip
        if {alias.name for node in nodes for alias in node.names} & {"Network", "tensors", "open_network"}:
            assert inference in stage.sources, stage.name


def test_a_kept_stage_is_told_with_the_libraries_that_it_ran_with(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.libraries = ("torch", "numpy")
    first, second = Step("first"), Step("second")
    both = [Stage("first", first, 1), Stage("second", second, 1)]
    install(monkeypatch, torch="1.0", numpy="2.0")
    stages.run(build, both, None, (), ())
    mark = build.folder("first") / "done.json"
    assert json.loads(mark.read_text())["libraries"] == {"torch": "1.0", "numpy": "2.0"}
    assert stages.made_otherwise(build) == {}
    install(monkeypatch, torch="1.1", numpy="2.0")
    second.content = b"b"
    second.meanwhile = lambda: told.append(stages.made_otherwise(build))
    told: list[dict[str, dict[str, str]]] = []
    stages.run(build, both, None, (), ())
    assert (first.runs, second.runs) == (1, 2)
    assert told == [stages.made_otherwise(build)] == [{"first": {"torch": "1.0"}}]
    mark.write_text(json.dumps({"key": build.keys["first"], "summary": ""}))  # of an earlier version, adopted
    assert stages.made_otherwise(build) == {"first": {"torch": "unknown", "numpy": "unknown"}}
