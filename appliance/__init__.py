"""The device: DICOM in, a model's finding out, nothing lost."""

import os
import sys
from importlib import metadata

# Libraries that report their use to their makers, unless they are kept from it before they are loaded: ONNX Runtime's
# wheels since 1.29; OpenVINO by a package that it does without where it can't be imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

try:
    __version__ = metadata.version("scanside")
except metadata.PackageNotFoundError:  # run from a folder that was never installed
    __version__ = "0+unknown"
