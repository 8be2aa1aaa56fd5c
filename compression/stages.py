"""The build: stages one after another, each kept until something that shapes it changes.

A stage is a module with ``run(build) -> str`` (a line that says what came out) and ``SECTIONS``, the recipe's tables
that it reads. Its key is a hash of those tables but for ``data.external``, which shapes nothing, of the sources of the
stage, of the versions of the libraries that it names, of its ``fingerprint(build)`` where it reads other files, and of
the keys of all stages before it; while the key stays the same, its folder is used as it is, and so are the files that
it leaves elsewhere, which ``published(build)`` names, while they are still the same.

Where several processes build together (`compression.distributed`), those stages that say ``DISTRIBUTED = True`` run in
all of them, the others in the first, for which the rest waits.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.backend import installed_version
from compression import durable
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.distributed import Group

_TELLING_SHARE = 3
_MARK, _ADOPTED = "done.json", "adopted"


@dataclass(frozen=True)
class Stage:
    """A step of a build.

    Attributes
    ----------
    share
        Of a build's time, in percent.
    sources
        Other modules that shape what it makes.
    libraries
        Distributions whose versions shape it.
    """

    name: str
    module: ModuleType
    share: float
    sources: tuple[ModuleType, ...] = ()
    libraries: tuple[str, ...] = ()


def _of_one() -> Group:
    """This process alone. torch comes with it, for which no other command has to wait."""
    from compression.distributed import SINGLE

    return SINGLE


@dataclass
class Build:
    """What a stage may use.

    Attributes
    ----------
    recipe, recipe_path
        The recipe and its file.
    data_root, weights_root
        Folders of the data sets and of the initial weights.
    work
        Folder of the stages' results.
    key
        Signs the package.
    out
        Folder of the package, its card and its report.
    threads
        Cores to use.
    group
        The processes that a stage's work is shared among.
    libraries
        Distributions whose versions the provenance tells.
    """

    recipe: Any
    recipe_path: Path
    data_root: Path
    weights_root: Path
    work: Path
    key: Ed25519PrivateKey
    out: Path
    threads: int = 2
    keys: dict[str, str] = field(default_factory=dict)
    adopted: tuple[str, ...] = ()
    group: Group = field(default_factory=_of_one)
    libraries: tuple[str, ...] = ()

    def folder(self, stage: str) -> Path:
        return self.work / stage

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, without the key: it stays in the one that signs."""
        return {name: value for name, value in self.__dict__.items() if name != "key"}


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of the distributions as they are installed now."""
    return {name: installed_version(name) for name in names}


def made_with(build: Build, stage: str) -> dict[str, str]:
    """The versions of the build's libraries with which a stage ran; empty where it is not done."""
    found: dict[str, str] = dict.fromkeys(build.libraries, "unknown")  # to who adopts what an earlier version made
    done = _done(build.folder(stage) / _MARK)
    return found | done.get("libraries", {}) if done else {}


def made_otherwise(build: Build) -> dict[str, dict[str, str]]:
    """Of kept stages: stage -> library -> version, where it is not the one that is installed now."""
    now, found = versions(build.libraries), {}
    for stage in build.keys:
        others = {name: then for name, then in made_with(build, stage).items() if then != now.get(name)}
        if others:
            found[stage] = others
    return found


def check_names(stages: Sequence[Stage], last: str | None, force: Sequence[str], adopt: Sequence[str]) -> None:
    """Raise `RecipeError` where one of the names, as of `run`, is of no stage."""
    names = [stage.name for stage in stages]
    for each in (last, *force, *adopt):
        if each is not None and each not in names:
            raise RecipeError(f"this recipe's build has no stage {each}; its stages are {', '.join(names)}")


def run(build: Build, stages: Sequence[Stage], last: str | None, force: Sequence[str], adopt: Sequence[str]) -> None:
    """Run the stages up to ``last``; those in ``force`` even where their key is unchanged.

    Those in ``adopt`` are kept as they are though their key has changed, for a change that shapes nothing, such as a
    comment; the package's provenance names them.

    Raises
    ------
    RecipeError
        Another build runs in this work folder.
    """
    with _alone(build):
        _run(build, stages, last, force, adopt)


@contextmanager
def _alone(build: Build) -> Iterator[None]:
    """Two builds in one folder would throw away what the other makes. The processes of one build are one."""
    if not build.group.main:
        yield
        return
    build.work.mkdir(parents=True, exist_ok=True)
    with (build.work / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                f"another build runs in {build.work}: wait for it, stop it, or choose another folder with --work"
            ) from None
        yield


def _run(build: Build, stages: Sequence[Stage], last: str | None, force: Sequence[str], adopt: Sequence[str]) -> None:
    key, group = "", build.group
    for stage in stages:
        name, module = stage.name, stage.module
        key = _key(build, stage, key)
        build.keys[name] = key
        together = getattr(module, "DISTRIBUTED", False)
        # The first process alone looks into the folder and changes it.
        if group.agree(group.main and _to_do(build, stage, key, name in force, name in adopt)):
            start, summary = time.monotonic(), ""
            if together:
                summary = module.run(build)
            elif group.main:
                summary = module.run(replace(build, group=_of_one()))
            group.wait()
            if group.main:
                done = {"key": key, "summary": summary, "published": _published(build, module),
                        "libraries": versions(build.libraries)}  # fmt: skip
                _write(build.folder(name) / _MARK, json.dumps(done))
                click.echo(f"{name:<10} {time.monotonic() - start:.0f} s: {summary}")
                _say_what_is_left(stages, stage, time.monotonic() - start)
        if (build.folder(name) / _ADOPTED).exists():
            build.adopted += (name,)
        if name == last:
            return


def _to_do(build: Build, stage: Stage, key: str, forced: bool, adopt: bool) -> bool:
    """Whether a stage has to run; if so, its folder is ready for it."""
    name = stage.name
    folder, mark = build.folder(name), build.folder(name) / _MARK
    begun, adopted = folder / "begun", folder / _ADOPTED
    done = _done(mark)
    if adopt and begun.exists() and begun.read_bytes() != key.encode():
        adopted.touch()
        _write(begun, key)
        if done:
            done = {**done, "key": key}
            _write(mark, json.dumps(done))
    if not forced and done.get("key") == key:
        if done.get("published", {}) == _published(build, stage.module):
            click.echo(f"{name:<10} kept{', adopted' if adopted.exists() else ''}: {done['summary']}")
            return False
        click.echo(f"{name:<10} again: what it had published was changed or removed")
    # What an interrupted run with the same key left is taken up again, anything else is thrown away.
    if folder.exists() and (not begun.exists() or begun.read_bytes() != key.encode() or forced):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(begun, key)
    mark.unlink(missing_ok=True)
    return True


def _done(mark: Path) -> dict[str, Any]:
    """What a finished stage wrote last; empty where it has not, or where that can't be read."""
    try:
        found = json.loads(mark.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"key", "summary"} <= found.keys() else {}


def _write(path: Path, text: str) -> None:
    try:
        durable.write(path, text.encode())
    except OSError as error:
        raise RecipeError(
            f"{path} can't be written: {error.strerror}; make room there and build again: it goes on from this stage"
        ) from error


def _published(build: Build, module: ModuleType) -> dict[str, str | None]:
    """The SHA-256 of what a stage leaves outside of its folder; none where a file is missing."""
    paths: Sequence[Path] = module.published(build) if hasattr(module, "published") else ()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None for path in paths}


def _say_what_is_left(stages: Sequence[Stage], done: Stage, seconds: float) -> None:
    """An estimate from this stage's time and the usual shares."""
    left = sum(stage.share for stage in stages[stages.index(done) + 1 :]) / done.share * seconds
    if done.share >= _TELLING_SHARE and left > 60:
        click.echo(f"{'':<10} about {left / 60:.0f} min to go")


def _key(build: Build, stage: Stage, before: str) -> str:
    digest = hashlib.sha256(before.encode())
    for section in stage.module.SECTIONS:
        table = getattr(build.recipe, section)
        if section == "data":  # what measures on external sets has them in its fingerprint
            table = msgspec.structs.replace(table, external=())
        digest.update(msgspec.json.encode(table, order="deterministic"))
    for source in (stage.module, *stage.sources):
        digest.update(Path(str(source.__file__)).read_bytes())
    for name, version in versions(stage.libraries).items():
        digest.update(f"{name} {version}".encode())
    if hasattr(stage.module, "fingerprint"):  # of what it reads besides the recipe
        digest.update(stage.module.fingerprint(build))
    return digest.hexdigest()
