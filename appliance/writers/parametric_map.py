"""Parametric Map: the class activation maps behind the findings, as numbers.

The object must lie in space (PS3.3 section A.75), which a radiograph does not. So it gets a Frame of Reference of its
own, the plane of that one radiograph, which nothing else can be taken to share: what is true in it is the size in
millimeters and which way the patient faces. Of an image that does not state both, there is no map.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance import concepts, orientation, render, source_grid, writer
from appliance.image import Image
from appliance.result import Finding, Prediction, Provenance

_LONGEST_SIDE = 256  # networks give maps of 7 to 16 cells a side; more pixels would only repeat them
_DIRECTIONS = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}


class ParametricMapWriter:
    """See the module; `appliance.writer.Writer`. A map that is withheld is not in it."""

    kind = "parametric_map"

    def accepts(self, prediction: Prediction) -> bool:
        return bool(_shown(prediction))

    def write(
        self, images: Sequence[Image], prediction: Prediction, provenance: Provenance, settings: writer.Settings
    ) -> list[Dataset]:
        image, shown = images[0], _shown(prediction)  # findings are of single images
        rows, columns = image.pixels.shape
        scale = min(_LONGEST_SIDE / max(rows, columns), 1.0)
        shape = max(round(rows * scale), 1), max(round(columns * scale), 1)
        measures, plane = source_grid.pixel_measures(image, shape), _plane(image)
        if measures is None or plane is None:
            return []
        place = writer.derived_uid(image.sop_instance_uid, "plane")
        sources = source_grid.sources(images)
        for source in sources:
            source.Rows, source.Columns = shape
            source.FrameOfReferenceUID = place
            source.PositionReferenceIndicator = ""
            source.ImagePositionPatient, source.ImageOrientationPatient = [0.0, 0.0, 0.0], plane
            source.PixelSpacing, source.SliceThickness = measures[0].PixelSpacing, None
        maps = [render.finer(prediction.activation_maps[finding.label], shape) for finding in shown]
        with writer.quiet():
            made = hd.pm.ParametricMap(
                source_images=sources,
                pixel_array=np.stack(maps, axis=-1)[np.newaxis],
                series_instance_uid=writer.series_uid(image, provenance, self.kind, place),
                series_number=9006,
                sop_instance_uid=writer.instance_uid(images, provenance, self.kind),
                instance_number=writer.instance_number(image),
                manufacturer=writer.MANUFACTURER,
                manufacturer_model_name=writer.MODEL_NAME,
                software_versions="",  # `stamp` has them
                device_serial_number=writer.serial_number(provenance),
                contains_recognizable_visual_features=False,
                real_world_value_mappings=[[_mapping(finding, number)] for number, finding in enumerate(shown, 1)],
                voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
                content_label="ACTIVATION_MAP",
                content_description=writer.long_string(f"{provenance.package} {provenance.version}. {settings.label}"),
                pixel_measures=measures,
            )
        writer.inherit(made, image)
        writer.stamp(made, image, provenance, f"AI activation map: {provenance.package}")
        made.Laterality = None
        source_grid.settle(made, writer.instance_uid(images, provenance, "dimensions of the parametric map"))
        return [made]


def _plane(image: Image) -> list[float] | None:
    """Image Orientation (Patient) by the first letters of Patient Orientation."""
    letters = orientation.stated(image.header)
    if letters is None or letters[0][0] == letters[1][0]:
        return None
    cosines = [float(value) for each in letters for value in _DIRECTIONS[each[0]]]
    return cosines if np.dot(cosines[:3], cosines[3:]) == 0 else None


def _shown(prediction: Prediction) -> list[Finding]:
    return [finding for finding in prediction.findings if finding.label in prediction.activation_maps]


def _mapping(finding: Finding, number: int) -> hd.pm.RealWorldValueMapping:
    """What the numbers are: evidence from 0 to the package's reference strength, which is 1."""
    return hd.pm.RealWorldValueMapping(
        lut_label=f"MAP_{number}",
        lut_explanation=writer.long_string(f"Evidence for {finding.label}, 1 is full strength"),
        unit=concepts.NO_UNITS,
        value_range=(0.0, 1.0),
        intercept=0.0,
        slope=1.0,
        quantity_definition=codes.DCM.ClassActivation,
    )
