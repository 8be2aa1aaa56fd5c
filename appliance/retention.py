"""What is removed, and when: images and results that are old enough, or the oldest while the disk is too full.

Only what nobody waits for goes: results that have arrived at all their destinations, and what somebody has marked as
reviewed. What went to no destination, since none is configured or none wanted it, has not arrived anywhere, and of what
was rejected nothing ever does: that is for people to say. `kept` counts what waits for them. An image of a series that
is still to be read stays, too.
The rows of the ledger stay, and tell when and why something went. While a box's system is on trial nothing goes, since
the earlier one may come back with its ledger of before, which would miss the files and know of no removal.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.config import Config
from appliance.custody import Custody

log = logging.getLogger("scanside.retention")

_DAY = 86400.0
TRANSFER_DAYS = 7.0  # that associations and batches are remembered after their end
_STEP_DAYS = 1.0  # as performed procedure steps are; by then their series are read


@dataclass(frozen=True)
class Removal:
    """One instance's ``image`` or ``result``, and why it goes; ``finished_at`` is the instance's."""

    kind: str
    instance_id: int
    paths: tuple[Path, ...]
    size: int
    finished_at: float
    why: str


def due(config: Config, custody: Custody) -> Iterator[Removal]:
    """What the configuration says is to go, the oldest first."""
    settings, now = config.retention, time.time()
    disk, seen = shutil.disk_usage(config.data), set()
    # The ratio of df(1): what is reserved for root counts as used by nobody.
    too_much = disk.used - (disk.used + disk.free) * settings.disk_percent / 100 if settings.disk_percent else 0.0
    for kind, days in (("image", settings.images_days), ("result", settings.results_days)):
        if days:
            for each in _old_enough(config, custody, kind, now - days * _DAY, f"older than {days:g} d"):
                seen.add((each.kind, each.instance_id))
                too_much -= each.size
                yield each
    for kind in ("image", "result"):
        if too_much > 0:
            for each in _old_enough(config, custody, kind, now, f"the disk was {settings.disk_percent:g} % full"):
                if (each.kind, each.instance_id) not in seen:
                    too_much -= each.size
                    yield each
                if too_much <= 0:
                    return


def _old_enough(config: Config, custody: Custody, kind: str, before: float, why: str) -> Iterator[Removal]:
    for row in custody.removable(kind, before):
        if kind == "image":
            paths = config.spool_path / row["file"], config.pixels_path / str(row["id"])
            yield Removal(kind, row["id"], paths, row["size"], row["finished_at"], why)
        else:
            folders = config.results_path / f"{row['id']:08d}", config.previews_path / str(row["id"])
            size = sum(file.stat().st_size for folder in folders for file in folder.glob("*"))
            yield Removal(kind, row["id"], folders, size, row["finished_at"], why)


def kept(config: Config, custody: Custody) -> dict[str, int]:
    """What the configuration says is to go and stays, since nobody has reviewed it; as of `Custody.unreviewed`."""
    settings, now = config.retention, time.time()
    if overfull(config):
        return custody.unreviewed(now)
    return custody.unreviewed(now - settings.images_days * _DAY if settings.images_days else 0.0)


def remove(config: Config, custody: Custody) -> list[Removal]:
    """Remove what is due, each with an event in the ledger; what was removed.

    The ledger is told first: `appliance.recount` tells of a file that a killed process left behind by that.
    """
    if _on_trial(config):
        return []
    removed: list[Removal] = []
    for each in due(config, custody):
        if not custody.note_removed(each.kind, each.instance_id, each.finished_at, each.why):
            continue
        with custody.together():  # nothing gets its row meanwhile
            if custody.known(each.instance_id)[f"{each.kind}_removed_at"] is None:
                continue  # it has come again since
            _delete(each.paths)
        removed.append(each)
    custody.prune_transfers(time.time() - TRANSFER_DAYS * _DAY)
    custody.prune_steps(time.time() - _STEP_DAYS * _DAY)
    if removed:
        size = sum(each.size for each in removed) / 2**20
        log.info("retention removed %d images and results, %.0f MiB", len(removed), size)
    return removed


def _on_trial(config: Config) -> bool:
    """Whether the box says that the slot which runs has not proved itself; elsewhere there are no slots."""
    if not config.box.report:
        return False
    try:
        report = json.loads(Path(config.box.report).read_bytes())
        return bool(report["slots"][report["slot"]] != "good")
    except (OSError, ValueError, LookupError, TypeError):  # it says nothing: a disk that fills up is worse
        return False


def _delete(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def overfull(config: Config) -> bool:
    """Whether the disk holds more than the configuration wants, so that `remove` has something to look for."""
    disk = shutil.disk_usage(config.data)
    limit = config.retention.disk_percent
    return bool(limit) and disk.used > (disk.used + disk.free) * limit / 100
