"""DICOM Segmentation, binary or fractional: the segments on the grid of their source images.

The binary one is for viewers and for measuring anew; the fractional one has the probability of each pixel, as the
network gave it, from 0 to 255.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance import orientation, source_grid, writer
from appliance.image import Image
from appliance.result import Prediction, Provenance, Segment

_LONGEST_LABEL = 64


class SegmentationWriter:
    """See the module; `appliance.writer.Writer`. The object is made by the package that drew the segments."""

    def __init__(self, fractional: bool) -> None:
        self.kind = "fractional_segmentation" if fractional else "segmentation"
        self._type = hd.seg.SegmentationTypeValues.FRACTIONAL if fractional else hd.seg.SegmentationTypeValues.BINARY

    def accepts(self, prediction: Prediction) -> bool:
        return self._pixels(prediction) is not None

    def _pixels(self, prediction: Prediction) -> np.ndarray | None:
        if self._type is hd.seg.SegmentationTypeValues.BINARY:
            return prediction.mask
        if prediction.probabilities is None:
            return None
        return np.moveaxis(prediction.probabilities, 0, -1)

    def write(
        self, images: Sequence[Image], prediction: Prediction, provenance: Provenance, settings: writer.Settings
    ) -> list[Dataset]:
        pixels = self._pixels(prediction)
        assert pixels is not None  # `accepts` has seen to it
        provenance, first = prediction.segmented_by or provenance, images[0]
        single = len(images) == 1
        what = self.kind.replace("_", " ")
        with writer.quiet():  # highdicom warns where there is nothing to encode
            segmentation = hd.seg.Segmentation(
                source_images=source_grid.sources(images),
                pixel_array=pixels,
                segmentation_type=self._type,
                segment_descriptions=list(_descriptions(images, prediction.segments, provenance)),
                series_instance_uid=source_grid.series_uid(images, provenance, self.kind),
                series_number=9003 if self.kind == "segmentation" else 9004,
                sop_instance_uid=writer.instance_uid(images, provenance, self.kind),
                instance_number=writer.instance_number(first),
                manufacturer=writer.MANUFACTURER,
                manufacturer_model_name=writer.MODEL_NAME,
                software_versions="",  # `stamp` has them
                device_serial_number=writer.serial_number(provenance),
                content_label=self.kind.upper()[:16],
                content_description=writer.long_string(f"{provenance.package} {provenance.version}. {settings.label}"),
                # A report refers to the frames of a single image by the numbers of the segments.
                omit_empty_frames=not single and bool(pixels.any()),
            )
        writer.inherit(segmentation, first)
        writer.stamp(segmentation, first, provenance, f"AI {what}: {provenance.package}")
        if single:
            segmentation.PatientOrientation = list(orientation.stated(first.header) or ()) or None
        source_grid.settle(segmentation, writer.instance_uid(images, provenance, f"dimensions of the {what}"))
        return [segmentation]


def _descriptions(
    images: Sequence[Image], segments: Sequence[Segment], provenance: Provenance
) -> Iterator[SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=writer.long_string(provenance.package),
        family=codes.DCM.ArtificialIntelligence,
        version=writer.long_string(provenance.version),
        source=writer.MANUFACTURER,
        parameters=writer.algorithm_parameters(provenance),
    )
    for number, segment in enumerate(segments, start=1):
        described = SegmentDescription(
            segment_number=number,
            segment_label=writer.ascii_text(segment.label)[:_LONGEST_LABEL],
            segmented_property_category=writer.coded(segment.category),
            segmented_property_type=writer.coded(segment.type),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_id=writer.tracking_id(provenance, segment.label),
            tracking_uid=writer.tracking_uid(images, provenance, segment.label),
            display_color=hd.color.CIELabColor.from_rgb(*segment.color),
        )
        if segment.modifier is not None:
            property_type = described.SegmentedPropertyTypeCodeSequence[0]
            property_type.SegmentedPropertyTypeModifierCodeSequence = [writer.coded(segment.modifier)]
        yield described
