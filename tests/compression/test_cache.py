"""The cache gives what was written or is made again; versions are of content; a full disk leaves nothing."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image as PillowImage

from appliance.preprocess import Step, preprocess, resize
from compression import cache, splits
from compression.cache import Cache, CacheDamagedError
from compression.content import content_version
from compression.data import decode, decode_to, read_manifest
from compression.levels import rounded, spread
from compression.problems import DataError
from compression.recipe import InputRecipe
from tests.compression.test_recipe_and_data import write_data_set
from tests.dicom_files import chest_pixels
from tests.running import CHECKOUT

KERMANY = CHECKOUT.parent / "shared" / "data" / "chest-kermany"
COUNT = 5


def sample(number: int) -> cache.Sample:
    chance = np.random.default_rng(number)
    return {
        "pixels": chance.integers(0, 255, (12, 10)).astype(np.uint8),
        "labels": chance.normal(size=(3, 4)).astype(np.float32),
    }


class Making:
    """Gives samples, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, number: int) -> cache.Sample:
        self.asked += 1
        return sample(number)


def assert_whole(arrays: cache.Sample) -> None:
    for number in range(COUNT):
        for name, value in sample(number).items():
            assert arrays[name].dtype == value.dtype
            np.testing.assert_array_equal(arrays[name][number], value)


def test_it_is_made_once_and_tells_how_fast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    making, path = Making(), tmp_path / "cache" / "a.h5"
    assert_whole(cache.load(path, "key", COUNT, making))
    assert_whole(cache.load(path, "key", COUNT, making))
    assert making.asked == COUNT
    said = capsys.readouterr().out
    assert f"wrote {COUNT} samples" in said
    assert f"read {COUNT} samples" in said
    assert said.count("samples/s") == 2
    assert [each.name for each in path.parent.iterdir()] == ["a.h5"]


def test_one_sample_can_be_read_by_itself(tmp_path: Path) -> None:
    cache.write(tmp_path / "a.h5", "key", COUNT, sample)
    with Cache(tmp_path / "a.h5", "key") as opened:
        np.testing.assert_array_equal(opened.read(3)["pixels"], sample(3)["pixels"])
        assert len(opened) == COUNT


def test_another_key_makes_it_again(tmp_path: Path) -> None:
    making = Making()
    cache.load(tmp_path / "a.h5", "one", COUNT, making)
    cache.load(tmp_path / "a.h5", "other", COUNT, making)
    assert making.asked == 2 * COUNT


def change_a_pixel(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["pixels"][3, 0, 0] ^= 1


def change_a_byte_on_disk(path: Path) -> None:
    data = bytearray(path.read_bytes())
    found = data.index(sample(3)["pixels"].tobytes())
    data[found + 7] ^= 0x40
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1500])


def replace_by_text(path: Path) -> None:
    path.write_text("no HDF5")


def lose_the_checksums(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["sha256"]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (change_a_pixel, "sample 3 of 5"),
        (change_a_byte_on_disk, "sample 3 of 5"),
        (cut_off, "no whole HDF5 file"),
        (replace_by_text, "no whole HDF5 file"),
        (lose_the_checksums, "lacks its key or its checksums"),
    ],
)  # fmt: skip
def test_damage_is_found_named_and_mended(
    damage: Callable[[Path], None], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.h5"
    cache.write(path, "key", COUNT, sample)
    damage(path)
    with pytest.raises(CacheDamagedError, match=named), Cache(path, "key") as opened:
        opened.all()
    making = Making()
    assert_whole(cache.load(path, "key", COUNT, making))
    assert making.asked == COUNT
    said = capsys.readouterr().out
    assert named in said
    assert "it is made again" in said
    with Cache(path, "key") as opened:
        assert_whole(opened.all())


def test_a_disk_with_too_little_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"no room left on the disk for the cache .* free some space"):
        cache.write(tmp_path / "a.h5", "key", COUNT, sample)
    assert not list(tmp_path.iterdir())


FULL = """
import sys, numpy as np
from pathlib import Path
from compression import cache
from compression.problems import DataError
try:
    cache.write(Path(sys.argv[1]), "key", 64, lambda number: {"pixels": np.full((256, 1024), number, dtype=np.uint8)})
except DataError as error:
    print(error)
"""


def test_a_disk_that_fills_up_meanwhile_leaves_no_half_file(tmp_path: Path) -> None:
    """A limit of the file's size stands for the disk; the kernel answers the same way, in the middle of a write."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))

    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "a.h5")],
        cwd=CHECKOUT, preexec_fn=limit, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no room left on the disk for the cache" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_sample_that_fails_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    def failing(number: int) -> cache.Sample:
        if number == 3:
            raise DataError("images/3.png can't be decoded")
        return sample(number)

    with pytest.raises(DataError, match=r"images/3\.png"):
        cache.write(tmp_path / "a.h5", "key", COUNT, failing)
    assert not list(tmp_path.iterdir())


# --- versions -------------------------------------------------------------------------------------------------------


def content_of(folder: Path) -> splits.Content:
    rows = read_manifest(folder)
    digests = np.array([str(number) for number in range(len(rows))])
    return splits.Content(digests, *(np.array([row[name] for row in rows]) for name in ("label", "patient_id")))


def test_the_version_is_of_the_content_and_the_same_version_gives_the_same_split(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "a", 30, 2)
    shutil.copytree(folder, tmp_path / "elsewhere")
    version = content_version(folder)
    assert content_version(tmp_path / "elsewhere") == version
    one, other = (splits.three_way(content_of(each)) for each in (folder, tmp_path / "elsewhere"))
    assert one.tolist() == other.tolist()
    file = folder / read_manifest(folder)[0]["file"]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert content_version(folder) != version
    file.unlink()
    assert len(content_version(folder)) == 64


def test_the_key_changes_with_files_steps_and_list(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "a", 10, 1)
    steps = [Step("resize", {"rows": 32, "columns": 32})]
    source = tmp_path / "decoder.py"
    source.write_text("pixels = 1")
    first = cache.key(folder, steps, (source,))
    assert cache.key(folder, steps, (source,)) == first
    assert cache.key(folder, [Step("resize", {"rows": 32, "columns": 33})], (source,)) != first
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("NORMAL", "ABNORMAL", 1))
    second = cache.key(folder, steps, (source,))
    assert second != first
    source.write_text("pixels = 2")
    assert cache.key(folder, steps, (source,)) != second


def test_nifti_pairs_without_a_list_have_a_version_too(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.nii.gz").write_bytes(part.encode())
    version = content_version(tmp_path)
    (tmp_path / "labels" / "a.nii.gz").write_bytes(b"other")
    assert content_version(tmp_path) != version
    with pytest.raises(DataError, match="neither"):
        content_version(tmp_path / "labels")


# --- depth ----------------------------------------------------------------------------------------------------------


def size(rows: int, columns: int) -> tuple[Step, ...]:
    return (Step("resize", {"rows": rows, "columns": columns}),)


def before(path: Path, rows: int, columns: int) -> np.ndarray:
    """How stage ``data`` read 8-bit files from the beginning."""
    with PillowImage.open(path) as picture:
        resized = resize(np.asarray(picture.convert("L")), rows=rows, columns=columns)
    return np.clip(resized + 0.5, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_pictures_of_8_bits_give_exactly_the_pixels_as_before(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PillowImage.fromarray(chest_pixels(90, 70, 8, 1)).convert(mode).save(path)
    np.testing.assert_array_equal(rounded(spread(decode(path), size(32, 32))), before(path, 32, 32))
    np.testing.assert_array_equal(spread(decode(path), size(90, 70)), before(path, 90, 70))


def test_a_picture_of_the_network_s_size_gives_bit_for_bit_the_input_as_before(tmp_path: Path) -> None:
    recipe, path = InputRecipe(90, 70, percentile_low=2.0, percentile_high=98.0, mean=0.5, std=0.25), tmp_path / "a.png"
    PillowImage.fromarray(chest_pixels(90, 70, 8, 1)).save(path)
    given = preprocess(decode_to(path, recipe), recipe.steps())
    assert given.tobytes() == preprocess(before(path, 90, 70), recipe.steps()).tobytes()


@pytest.mark.skipif(not KERMANY.is_dir(), reason="not there: shared/data/chest-kermany")
def test_the_radiographs_of_the_model_give_exactly_the_pixels_as_before() -> None:
    for path in sorted(KERMANY.glob("*/*/*.jpeg"))[::50]:
        np.testing.assert_array_equal(rounded(spread(decode(path), size(224, 224))), before(path, 224, 224))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deeper_pictures_keep_their_levels(bits: int, suffix: str, tmp_path: Path) -> None:
    path, deep = tmp_path / f"a.{suffix}", chest_pixels(96, 64, bits, 1)
    deep = deep.astype(np.uint16)
    PillowImage.fromarray(deep).save(path)
    np.testing.assert_array_equal(decode(path), deep)
    seen = spread(decode(path), size(96, 64))
    low, high = int(deep.min()), int(deep.max())
    np.testing.assert_allclose(seen, (deep - float(low)) * 255 / (high - low), atol=1e-3)
    assert (before(path, 96, 64) == 255).mean() > 0.9  # what the trap was: all levels cut off at 255


@pytest.mark.parametrize("outlier", ["a hot pixel", "a marker", "a frame"])
def test_what_lies_far_from_a_deep_picture_leaves_it_its_levels(outlier: str) -> None:
    """The network's steps make the same of it as of the picture itself; but for rounding where it is augmented."""
    recipe = InputRecipe(96, 64, percentile_low=2.0, percentile_high=98.0, mean=0.0, std=1.0)
    deep = np.linspace(1000, 5095, 96 * 64).astype(np.uint16).reshape(96, 64)
    if outlier == "a frame":
        deep[:4] = deep[:, :4] = 0
    else:
        side = 1 if outlier == "a hot pixel" else 7
        deep[:side, :side] = 65_535
    seen, given = spread(deep, recipe.geometry(), recipe.stretched()), preprocess(deep, recipe.steps())
    for bound, learned_from in ((0.001, seen), (1.25, rounded(seen))):
        assert np.abs(preprocess(learned_from, recipe.steps()) - given).max() <= bound / 255


def test_a_flat_deep_picture_is_black_and_no_error() -> None:
    assert not spread(np.full((8, 8), 3000, dtype=np.uint16), size(4, 4)).any()
