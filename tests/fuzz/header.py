"""Coverage-guided fuzzing of the way from a file to its header and pixels, by hand.

pip install atheris==3.0.0
python -m tests.fuzz.header [FOLDER OF INPUTS TO START FROM] [libFuzzer's options, such as -max_total_time=600]

It runs in the process itself, without the sandbox: what it finds is what the sandbox would have to hold. Anything but
an `ImageError` is a finding.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["appliance", "pydicom"]):
    from appliance import image
    from appliance.errors import ImageError

_FILE = Path(tempfile.mkdtemp()) / "input.dcm"


def read(content: bytes) -> None:
    _FILE.write_bytes(content)
    try:
        loaded = image.load(_FILE)
    except ImageError:
        return
    image.describe(loaded.header)
    image.place_in_series(loaded.header)


if __name__ == "__main__":
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
