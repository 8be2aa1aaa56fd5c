"""Secondary Capture: the original beside its heat map or outlines, and the result in words, for any viewer at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import highdicom as hd
import numpy as np
from pydicom import Dataset

from appliance import canvas, render, volume, writer
from appliance.image import Image
from appliance.result import Prediction, Provenance, percent

_PANEL_LONGEST, _PANEL_SHORTEST = 1024, 512
_PLANE_LONGEST = 480


class SecondaryCaptureWriter:
    """See the module; `appliance.writer.Writer`."""

    kind = "secondary_capture"

    def accepts(self, prediction: Prediction) -> bool:
        return bool(prediction.findings and prediction.activation_maps) or prediction.mask is not None

    def write(
        self, images: Sequence[Image], prediction: Prediction, provenance: Provenance, settings: writer.Settings
    ) -> list[Dataset]:
        image = images[0]
        capture = hd.sc.SCImage(
            pixel_array=picture(images, prediction, provenance, settings.label),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            study_instance_uid=image.header.StudyInstanceUID,
            series_instance_uid=writer.series_uid(image, provenance, self.kind),
            series_number=9002,
            sop_instance_uid=writer.instance_uid(images, provenance, self.kind),
            instance_number=writer.instance_number(image),
            manufacturer=writer.MANUFACTURER,
            patient_orientation=("L", "F"),
        )
        writer.inherit(capture, image)
        what = "heat map" if prediction.findings else "outline"
        writer.stamp(capture, image, provenance, f"AI {what}: {provenance.package}")
        capture.DateOfSecondaryCapture, capture.TimeOfSecondaryCapture = capture.ContentDate, capture.ContentTime
        # Two panels side by side have no one orientation, and no side of the body can be claimed for them.
        capture.PatientOrientation = None
        capture.Laterality = None
        capture.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        capture.ConversionType = "WSD"
        capture.DerivationDescription = writer.ascii_text(
            f"{_derived(prediction)} of {provenance.package} {provenance.version}. {settings.label}"
        )[:1024]
        capture.SourceImageSequence = [writer.source_reference(each) for each in images]
        _keep_history(capture, [each.header for each in images])
        return [capture]


def _derived(prediction: Prediction) -> str:
    if prediction.findings:
        return "Radiograph beside the class activation map"
    return "Original beside the outlines of the segments"


def _keep_history(capture: Dataset, sources: Sequence[Dataset]) -> None:
    """What is true of the source's pixels stays true of the copy.

    The text that is added here identifies no patient, so that Burned In Annotation (PS3.3 C.7.6.1) is the source's:
    absent where the source doesn't know. Once lossy, always lossy (PS3.3 C.7.6.1.1.5).
    """
    burned_in = {source.get("BurnedInAnnotation") for source in sources}
    for value in ("YES", "NO"):
        if value in burned_in and (value == "YES" or len(burned_in) == 1):
            capture.BurnedInAnnotation = value
            break
    if any(source.get("LossyImageCompression") == "01" for source in sources):
        capture.LossyImageCompression = "01"


def picture(
    images: Sequence[Image], prediction: Prediction, provenance: Provenance, label: str = writer.RESEARCH_USE
) -> np.ndarray:
    """The capture's pixels: a band with the label, the panels with their captions, the result in words.

    Returns
    -------
    RGB uint8 ``(rows, columns, 3)``. Of an image, the panels are the original and, in the same size, the original under
    the heat map of the most probable finding and the outlines of the segments; of a volume, the planes with the largest
    cross sections in three directions, without and with the outlines.
    """
    rows = _image_panels(images[0], prediction) if len(images) == 1 else _volume_panels(images, prediction)
    return canvas.compose(label, rows, list(_sentences(prediction, provenance)))


def _image_panels(image: Image, prediction: Prediction) -> list[list[canvas.Panel]]:
    original = render.display(image, _PANEL_LONGEST, _PANEL_SHORTEST)
    shape = original.shape[0], original.shape[1]
    overlaid, shown = original, []
    maps = [finding for finding in prediction.findings if finding.label in prediction.activation_maps]
    if maps:
        finding = max(maps, key=lambda each: each.probability)
        overlaid = render.blend(overlaid, render.heat(prediction.activation_maps[finding.label], shape))
        shown.append(f"Heat map: {finding.label}")
    if prediction.mask is not None:
        overlaid = render.blend(overlaid, render.outline(prediction.mask[0], prediction.segments, shape))
        shown.append(f"Outline: {', '.join(segment.label for segment in prediction.segments)}")
    return [[(original, "Original"), (overlaid, "; ".join(shown))]]


def _volume_panels(images: Sequence[Image], prediction: Prediction) -> list[list[canvas.Panel]]:
    assert prediction.mask is not None  # or `accepts` would have said no: findings are of single images
    stacked = volume.stack(images)
    mask, levels = stacked.straighten(prediction.mask), render.levels(stacked)
    plain, outlined = [], []
    for axis, name in enumerate(render.PLANES):
        areas = (mask > 0).sum(axis=tuple(each for each in range(3) if each != axis))
        place = int(areas.argmax()) if areas.any() else mask.shape[axis] // 2
        spacing = render.plane_spacing(stacked, axis)
        cut = render.square(render.plane(stacked.pixels, axis, place), spacing, _PLANE_LONGEST, enlarge=True)
        shape = cut.shape[0], cut.shape[1]
        original = render.gray(cut, levels)
        lines = render.outline(render.plane(mask, axis, place), prediction.segments, shape)
        plain.append((original, f"{name} {place + 1} of {mask.shape[axis]}"))
        overlaid = np.repeat(original[..., np.newaxis], 3, axis=2)
        outlined.append((render.blend(overlaid, lines), f"{name}, outlined"))
    return [plain, outlined]


def _sentences(prediction: Prediction, provenance: Provenance) -> Iterator[canvas.Sentence]:
    for finding in prediction.findings:
        words = f"{finding.words} Probability {percent(finding.probability)}, threshold {percent(finding.threshold)}."
        yield words, canvas.ALARM if finding.positive else canvas.INK
    for segment in prediction.segments:
        yield f"{segment.label}: {segment.size}, mean probability {percent(segment.mean_probability)}.", segment.color
    for warning in prediction.warnings:
        yield warning, canvas.WARNING
    made_by = [f"{each.package} {each.version}" for each in (provenance, prediction.segmented_by) if each is not None]
    legend = [f"{' and '.join(made_by)}."]
    if prediction.activation_maps:
        legend.append("Colors mark the evidence that the model found, from faint (red) to strong (yellow).")
    if prediction.segments:
        legend.append("Lines in the color of a segment's name run along its edge.")
    yield " ".join(legend), canvas.FAINT
