"""The device: DICOM in, a model's finding out, nothing lost."""

from importlib import metadata

try:
    __version__ = metadata.version("scanside")
except metadata.PackageNotFoundError:  # run from a folder that was never installed
    __version__ = "0+unknown"
