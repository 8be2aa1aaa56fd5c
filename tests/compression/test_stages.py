"""What a build remembers of its stages is whole or not there, whatever fills the disk or damages a file."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compression import stages
from compression.recipe import RecipeError
from compression.stages import Build, Stage

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

    def __init__(self) -> None:
        super().__init__(STEP)
        self.__file__ = __file__
        self.runs, self.content = 0, b"a"
        self.meanwhile: Callable[[], object] = lambda: None

    def fingerprint(self, _: Build) -> bytes:
        return self.content

    def run(self, build: Build) -> str:
        self.runs += 1
        (build.folder(STEP) / "long work").touch()
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
