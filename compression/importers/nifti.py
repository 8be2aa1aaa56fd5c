"""``images/`` and ``labels/`` with NIfTI volumes of the same names, as the Medical Segmentation Decathlon has them."""

from __future__ import annotations

import re
from pathlib import Path

from compression.importing import Case, Faults, Options
from compression.problems import DataError
from compression.sources import NIFTI

# The Decathlon's own names of the two folders come second.
_IMAGES, _LABELS = ("images", "imagesTr"), ("labels", "labelsTr")


class NiftiImporter:
    """Each volume counts as a patient of its own: NIfTI does not say whose it is.

    Where patients have several volumes, write a list and import it as ``folder``.
    """

    layout = "nifti"
    about = "images/ and labels/ with NIfTI volumes, paired by name (imagesTr/, labelsTr/, too)"

    def find(self, source: Path, options: Options, faults: Faults) -> list[Case]:  # noqa: ARG002  the protocol's
        images, labels = _volumes(source, _IMAGES), _volumes(source, _LABELS)
        if not images:
            raise DataError(f"{source} has no NIfTI volumes in {' or '.join(_IMAGES)}")
        for name in sorted(labels.keys() - images.keys()):
            faults.add("other object", f"{labels[name]} has no image of its name")
        cases = []
        for name, path in images.items():
            if name in labels:
                cases.append(Case(name, (path,), {"patient_id": name}, labels[name]))
            else:
                faults.add("no mask", f"{path} has no mask of its name in {' or '.join(_LABELS)}")
        return cases


def _volumes(source: Path, folders: tuple[str, ...]) -> dict[str, Path]:
    """Volumes by their names without suffix; files that begin with a dot are leftovers of a Mac's archive."""
    found = [path for folder in folders for path in sorted((source / folder).glob("*")) if path.name[0] != "."]
    volumes: dict[str, Path] = {}
    for path in found:
        if path.name.lower().endswith(NIFTI):
            name = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
            if name in volumes:
                raise DataError(f"{path} and {volumes[name]} have the same name; keep one of them")
            volumes[name] = path
    return volumes
