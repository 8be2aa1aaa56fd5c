"""Decoded and prepared samples of a data set in one HDF5 file, which says itself what it was made of.

Its key is a hash of the data set's content, of the steps that prepared it and of the code that decoded it; each
sample has a SHA-256 that is verified when it is read. A file of another key, or a damaged one, is made anew. It is
written under a temporary name and renamed, so that half a file is never found.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import click
import h5py
import msgspec
import numpy as np
from tqdm import tqdm

from appliance.preprocess import Step
from compression import durable
from compression.content import content_version
from compression.problems import DataError

Sample = dict[str, np.ndarray]
_FORMAT = 1
_DECODERS = ("pillow", "nibabel", "numpy", "pydicom")
_CHECKSUMS = "sha256"
_RESERVE = 64 << 20  # bytes that stay free beside the file
_HEADERS = 1 << 16  # more bytes than HDF5's own structures take


class CacheDamagedError(DataError):
    """A cache is not what was written; it can be made again."""


def key(folder: Path, steps: Sequence[Step], made_by: Sequence[Path]) -> str:
    """SHA-256 of a data set's files, of the steps, of what decodes, and of the source files that do the rest."""
    parts = {
        "format": _FORMAT,
        "content": content_version(folder),
        "steps": list(steps),
        "decoders": {name: version(name) for name in _DECODERS},
        "sources": [hashlib.sha256(path.read_bytes()).hexdigest() for path in made_by],
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def load(path: Path, wanted: str, count: int, make: Callable[[int], Sample]) -> Sample:
    """All samples, from the cache or made now and cached.

    Parameters
    ----------
    path
        The cache's file.
    wanted
        Its key.
    count
        How many samples there are.
    make
        Gives a sample by number: arrays by name, of the same shapes and types for all.

    Returns
    -------
    Arrays by name, ``(count, ...)``.

    Raises
    ------
    DataError
        The disk is full; no file is left then.
    """
    try:
        with Cache(path, wanted) as found:
            start = time.monotonic()
            arrays = found.all()
            _say("read", path, len(found), time.monotonic() - start)
            return arrays
    except FileNotFoundError:
        pass
    except CacheDamagedError as error:
        click.echo(f"cache      {error}; it is made again")
    start = time.monotonic()
    write(path, wanted, count, make)
    _say("wrote", path, count, time.monotonic() - start)
    with Cache(path, wanted) as found:
        return found.all()


def _say(did: str, path: Path, count: int, seconds: float) -> None:
    click.echo(f"cache      {did} {count} samples, {count / max(seconds, 1e-9):,.0f} samples/s: {path}")


class Cache:
    """A cache that is open for reading; a context manager.

    Raises
    ------
    FileNotFoundError
        There is none, or it is of another key.
    CacheDamagedError
        It can't be opened.
    """

    def __init__(self, path: Path, wanted: str) -> None:
        self._path = path
        if not path.is_file():
            raise FileNotFoundError(path)
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise CacheDamagedError(f"{path} is no whole HDF5 file") from error
        try:
            kept = self._file.attrs["key"]
            self._sums = self._file[_CHECKSUMS][()]
            self._names = sorted(name for name in self._file if name != _CHECKSUMS)
        except (KeyError, OSError, RuntimeError) as error:
            self._file.close()
            raise CacheDamagedError(f"{path} lacks its key or its checksums") from error
        if kept != wanted:
            self._file.close()
            raise FileNotFoundError(f"{path} is of another key")

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._sums)

    def read(self, number: int) -> Sample:
        """One sample; raises `CacheDamagedError` naming it where its checksum is wrong."""
        try:
            sample = {name: self._file[name][number] for name in self._names}
        except (KeyError, OSError, RuntimeError) as error:
            raise CacheDamagedError(f"{self._path}: sample {number} of {len(self)} can't be read") from error
        if _checksum(sample) != self._sums[number].tobytes():
            raise CacheDamagedError(f"{self._path}: sample {number} of {len(self)} is not what was written")
        return sample

    def all(self) -> Sample:
        arrays: Sample = {}
        for number in tqdm(range(len(self)), desc="reading cache", unit="sample"):
            for name, value in self.read(number).items():
                if name not in arrays:
                    arrays[name] = np.empty((len(self), *value.shape), value.dtype)
                arrays[name][number] = value
        return arrays


def write(path: Path, made_of: str, count: int, make: Callable[[int], Sample]) -> None:
    """Make a cache; it is whole and on disk afterwards, or not there.

    HDF5 crashes the process where the disk fills up under it. The space is therefore reserved, which fails cleanly;
    HDF5 only lays the file out, and the samples are written to their places in it by plain writes.

    Raises
    ------
    DataError
        The disk is full or the file can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(suffix=".writing", dir=path.parent)
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror}") from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "r+b") as file:
            _fill(file, temporary, path, made_of, count, make)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if durable.is_full(error):
            raise _no_room(path) from error
        raise DataError(f"{path} can't be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _fill(file: BinaryIO, temporary: Path, path: Path, made_of: str, count: int, make: Callable[[int], Sample]) -> None:
    sums = np.zeros((count, hashlib.sha256().digest_size), dtype=np.uint8)
    layout: Sample = {}
    for number in tqdm(range(count), desc="decoding", unit="sample"):
        sample = make(number)
        if number == 0:
            layout = sample
            offsets = _lay_out(file, temporary, path, made_of, sample, sums)
        for name, value in sample.items():
            expected = layout[name]
            if (value.shape, value.dtype) != (expected.shape, expected.dtype):
                raise DataError(f"sample {number}: {name} is {value.shape}, of those before it {expected.shape}")
            file.seek(offsets[name] + number * value.nbytes)
            file.write(value.tobytes())
        sums[number] = np.frombuffer(_checksum(sample), dtype=np.uint8)
    file.seek(offsets[_CHECKSUMS])
    file.write(sums.tobytes())


def _lay_out(
    file: BinaryIO, temporary: Path, path: Path, made_of: str, sample: Sample, sums: np.ndarray
) -> dict[str, int]:
    """Make the file with its key and room for all samples; where each array begins in it, in bytes."""
    arrays = {name: ((len(sums), *value.shape), value.dtype) for name, value in sample.items()}
    arrays[_CHECKSUMS] = (sums.shape, sums.dtype)
    needed = sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in arrays.values())
    if shutil.disk_usage(path.parent).free < needed + _RESERVE:
        raise _no_room(path, needed)
    os.posix_fallocate(file.fileno(), 0, needed + _HEADERS)  # would it fit? HDF5 begins with an empty file
    at_once = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    at_once.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    at_once.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(temporary, "w", locking=False) as laid_out:
        laid_out.attrs["key"] = made_of
        offsets = {}
        for name, (shape, dtype) in arrays.items():
            space = h5py.h5s.create_simple(shape)
            made = h5py.h5d.create(laid_out.id, name.encode(), h5py.h5t.py_create(dtype), space, at_once)
            offsets[name] = int(made.get_offset())
    os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    return offsets


def _checksum(sample: Sample) -> bytes:
    hashed = hashlib.sha256()
    for name in sorted(sample):
        hashed.update(f"{name} {sample[name].shape} {sample[name].dtype.str}\0".encode())
        hashed.update(np.ascontiguousarray(sample[name]).tobytes())
    return hashed.digest()


def _no_room(path: Path, needed: int | None = None) -> DataError:
    size = f" ({needed / 1e6:,.0f} MB)" if needed else ""
    return DataError(f"no room left on the disk for the cache {path}{size}; free some space and run again")
