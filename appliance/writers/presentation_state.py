"""Grayscale Softcopy Presentation State: the outlines of the segments as lines over the source images themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import highdicom as hd
import numpy as np
from highdicom.pr import GraphicAnnotation, GraphicLayer, GraphicObject, TextObject
from pydicom import Dataset
from pydicom.valuerep import DS

from appliance import contour, render, source_grid, writer
from appliance.image import Image, text
from appliance.result import Prediction, Provenance, Segment
from appliance.volume import stack

# A line may lie off the edge of the mask by so much of the longer side, and by so many pixels.
_TOLERANCE, _LEAST_TOLERANCE = 1 / 1000, 0.3
_ENOUGH_PIXELS = 512  # a side, to tell the brightness of an image
_LABEL_BOX = 0.02, 0.02, 0.98, 0.07  # of what the screen shows
_LEGEND_BOX = 0.02, 0.93, 0.98, 0.98


class PresentationStateWriter:
    """See the module; `appliance.writer.Writer`. The object is made by the package that drew the segments."""

    kind = "presentation_state"

    def accepts(self, prediction: Prediction) -> bool:
        return prediction.mask is not None

    def write(
        self, images: Sequence[Image], prediction: Prediction, provenance: Provenance, settings: writer.Settings
    ) -> list[Dataset]:
        """None where the images' pixels become values by a table, or by factors that differ from slice to slice.

        One presentation state has one such transformation for all that it refers to (PS3.3 section A.33.1).
        """
        assert prediction.mask is not None  # `accepts` has seen to it
        provenance, first = prediction.segmented_by or provenance, images[0]
        rescale = {_rescale(image) for image in images}
        if len(rescale) > 1 or any("ModalityLUTSequence" in image.header for image in images):
            return []
        references = source_grid.sources(images)
        for reference in references:
            reference.SamplesPerPixel = 1
        layers = list(_layers(prediction.segments))
        low, high = _window(images)
        state = hd.pr.GrayscaleSoftcopyPresentationState(
            referenced_images=references,
            series_instance_uid=writer.series_uid(first, provenance, self.kind),
            series_number=9005,
            sop_instance_uid=writer.instance_uid(images, provenance, self.kind),
            instance_number=writer.instance_number(first),
            manufacturer=writer.MANUFACTURER,
            manufacturer_model_name=writer.MODEL_NAME,
            software_versions="",  # `stamp` has them
            device_serial_number=writer.serial_number(provenance),
            content_label="AI_OUTLINE",
            content_description=writer.long_string(f"{provenance.package} {provenance.version}. {settings.label}"),
            graphic_layers=layers,
            graphic_annotations=[
                _words(references, layers[-1], prediction.segments, settings.label),
                *_outlines(images, references, layers, prediction, provenance),
            ],
            modality_lut_transformation=_modality_lut(*rescale),
            voi_lut_transformations=[
                hd.pr.SoftcopyVOILUTTransformation(window_center=(low + high) / 2, window_width=max(high - low, 1.0))
            ],
            presentation_lut_transformation=hd.PresentationLUTTransformation(
                presentation_lut_shape="INVERSE" if _inverted(first) else "IDENTITY"
            ),
        )
        writer.inherit(state, first)
        writer.stamp(state, first, provenance, f"AI outline: {provenance.package}")
        state.PresentationCreationDate, state.PresentationCreationTime = state.ContentDate, state.ContentTime
        del state.ContentDate, state.ContentTime  # which this kind doesn't have
        state.Laterality = None
        # Or viewers would show pixels that are not square as if they were.
        for area in state.DisplayedAreaSelectionSequence:
            if first.spacing is not None:
                del area.PresentationPixelAspectRatio
                area.PresentationPixelSpacing = [DS(each, auto_format=True) for each in first.spacing]
            else:
                area.PresentationPixelAspectRatio = [round(each) for each in first.pixel_shape]
        return [state]


def _layers(segments: Sequence[Segment]) -> Iterator[GraphicLayer]:
    """One for each segment, in its color, and one for words above them."""
    for number, segment in enumerate(segments, start=1):
        color = hd.color.CIELabColor.from_rgb(*segment.color)
        yield GraphicLayer(f"SEGMENT_{number}", number, writer.long_string(segment.label), color)
    yield GraphicLayer("LABEL", len(segments) + 1, "What this is, and what it is not for")


def _words(
    references: Sequence[Dataset], layer: GraphicLayer, segments: Sequence[Segment], label: str
) -> GraphicAnnotation:
    """The label above, the names and sizes below, where the screen shows the image."""
    sizes = "; ".join(f"{segment.label}: {segment.size}" for segment in segments)
    return GraphicAnnotation(
        referenced_images=references,
        graphic_layer=layer,
        text_objects=[
            TextObject(label, units="DISPLAY", bounding_box=_LABEL_BOX),
            TextObject(writer.ascii_text(sizes)[:1024], units="DISPLAY", bounding_box=_LEGEND_BOX),
        ],
    )


def _outlines(
    images: Sequence[Image],
    references: Sequence[Dataset],
    layers: Sequence[GraphicLayer],
    prediction: Prediction,
    provenance: Provenance,
) -> Iterator[GraphicAnnotation]:
    """The lines on each image, tracked as in the report and the Segmentation."""
    assert prediction.mask is not None
    tolerance = max(max(prediction.mask.shape[1:]) * _TOLERANCE, _LEAST_TOLERANCE)
    for number, segment in enumerate(prediction.segments, start=1):
        tracking = writer.tracking_id(provenance, segment.label), writer.tracking_uid(images, provenance, segment.label)
        for plane, reference in zip(prediction.mask, references, strict=True):
            lines = [
                GraphicObject("POLYLINE", line, "PIXEL", tracking_id=tracking[0], tracking_uid=tracking[1])
                for line in contour.contours(plane == number, tolerance)
            ]
            if lines:
                yield GraphicAnnotation([reference], layers[number - 1], graphic_objects=lines)


def _rescale(image: Image) -> tuple[float, float] | None:
    """Rescale Slope and Intercept; None where the stored values are the values.

    However they are written: they have been applied to the pixels already.
    """
    slope, intercept = (text(image.header, name) for name in ("RescaleSlope", "RescaleIntercept"))
    return (float(slope), float(intercept)) if slope and intercept else None


def _modality_lut(rescale: tuple[float, float] | None) -> hd.ModalityLUTTransformation | None:
    if rescale is None:
        return None
    return hd.ModalityLUTTransformation(rescale_slope=rescale[0], rescale_intercept=rescale[1], rescale_type="US")


def _window(images: Sequence[Image]) -> tuple[float, float]:
    """The ends of the window that the page and the capture show, in the source's own values."""
    if len(images) > 1:
        low, high = render.levels(stack(images))
        values = np.stack([image.pixels for image in images])
    else:
        values = images[0].pixels
        step = max(min(values.shape) // _ENOUGH_PIXELS, 1)
        low, high = render.window(images[0].header, values) or render.percentiles(values[::step, ::step])
    if not _inverted(images[0]):
        return low, high
    total = float(values.min()) + float(values.max())  # which `image` turned it around
    return total - high, total - low


def _inverted(image: Image) -> bool:
    return str(image.header.get("PhotometricInterpretation")) == "MONOCHROME1"
