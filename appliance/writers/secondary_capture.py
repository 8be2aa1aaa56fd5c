"""Secondary Capture: the radiograph beside its heat map, with the finding in words, for any viewer at all."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import highdicom as hd
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.sr.codedict import codes

from appliance import render, writer
from appliance.image import Image
from appliance.result import Prediction, Provenance

_PANEL_LONGEST = 1024
_NARROWEST = 640
_MARGIN = 16
_INK, _FAINT, _PAPER, _BAND = (235, 238, 240), (150, 158, 164), (14, 17, 20), (44, 52, 60)
_ALARM, _WARNING = (255, 122, 89), (255, 209, 102)

_Color = tuple[int, int, int]


class SecondaryCaptureWriter:
    """See the module; `appliance.writer.Writer`."""

    kind = "secondary_capture"

    def accepts(self, prediction: Prediction) -> bool:
        return bool(prediction.findings and prediction.activation_maps)

    def write(self, images: Sequence[Image], prediction: Prediction, provenance: Provenance) -> list[Dataset]:
        return [self._write(image, prediction, provenance) for image in images]

    def _write(self, image: Image, prediction: Prediction, provenance: Provenance) -> Dataset:
        capture = hd.sc.SCImage(
            pixel_array=picture(image, prediction, provenance),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            study_instance_uid=image.header.StudyInstanceUID,
            series_instance_uid=writer.series_uid(image, provenance, self.kind),
            series_number=9002,
            sop_instance_uid=writer.instance_uid(image, provenance, self.kind),
            instance_number=writer.instance_number(image),
            manufacturer=writer.MANUFACTURER,
            patient_orientation=("L", "F"),
        )
        writer.inherit(capture, image)
        writer.stamp(capture, image, provenance, f"AI heat map: {provenance.package}")
        capture.DateOfSecondaryCapture, capture.TimeOfSecondaryCapture = capture.ContentDate, capture.ContentTime
        # Two panels side by side have no one orientation, and no side of the body can be claimed for them.
        capture.PatientOrientation = None
        capture.Laterality = None
        capture.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        capture.ConversionType = "WSD"
        capture.DerivationDescription = writer.ascii_text(
            f"Radiograph beside the class activation map of {provenance.package} {provenance.version}. "
            f"{writer.RESEARCH_USE}"
        )[:1024]
        capture.SourceImageSequence = [_reference(image)]
        _keep_history(capture, image.header)
        return capture


def _keep_history(capture: Dataset, source: Dataset) -> None:
    """What is true of the source's pixels stays true of the copy.

    The text that is added here identifies no patient, so that Burned In Annotation (PS3.3 C.7.6.1) is the source's:
    absent where the source doesn't know. Once lossy, always lossy (PS3.3 C.7.6.1.1.5).
    """
    if source.get("BurnedInAnnotation") in ("YES", "NO"):
        capture.BurnedInAnnotation = source.BurnedInAnnotation
    if source.get("LossyImageCompression") == "01":
        capture.LossyImageCompression = "01"


def _reference(image: Image) -> Dataset:
    """Why the source is referenced: it was the input of a process (PS3.16 CID 7202)."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    code = codes.DCM.SourceImageForImageProcessingOperation
    item.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(code)]
    return item


def picture(image: Image, prediction: Prediction, provenance: Provenance) -> np.ndarray:
    """The capture's pixels: a band of warning, the two panels with their captions, the findings in words.

    Returns
    -------
    RGB uint8 ``(rows, columns, 3)``; the panels are the original and, in the same size, the original under the heat
    map of the most probable finding.
    """
    original = render.display(image, _PANEL_LONGEST)
    finding = max(prediction.findings, key=lambda each: each.probability)
    overlay = render.heat(prediction.activation_maps[finding.label], original.shape)
    rows, columns = original.shape
    width = max(2 * columns + 3 * _MARGIN, _NARROWEST)
    text_width = width - 2 * _MARGIN
    # Legible where a viewer shrinks the whole capture to a screen.
    size = max(width // 64, 16)
    band = _wrapped([(writer.RESEARCH_USE, _INK)], text_width, size)
    captions = "Original", f"Heat map: {finding.label}"
    footer = _wrapped(_sentences(prediction, provenance), text_width, size)

    line = round(size * 1.45)
    band_bottom = len(band) * line + _MARGIN
    panels_top = band_bottom + line + _MARGIN
    footer_top = panels_top + rows + _MARGIN
    right = width - columns - _MARGIN
    canvas = PillowImage.new("RGB", (width, footer_top + len(footer) * line + _MARGIN), _PAPER)
    canvas.paste(PillowImage.fromarray(original), (_MARGIN, panels_top))
    canvas.paste(PillowImage.fromarray(render.blend(original, overlay)), (right, panels_top))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, width, band_bottom), fill=_BAND)
    _put(draw, (_MARGIN, _MARGIN // 2), band, size, line)
    for left, caption in zip((_MARGIN, right), captions, strict=True):
        _put(draw, (left, band_bottom + _MARGIN // 2), _wrapped([(caption, _FAINT)], columns, size)[:1], size, line)
    _put(draw, (_MARGIN, footer_top), footer, size, line)
    return np.asarray(canvas)


def _sentences(prediction: Prediction, provenance: Provenance) -> list[tuple[str, _Color]]:
    sentences = []
    for finding in prediction.findings:
        words = f"{finding.words} Probability {finding.probability:.1%}, threshold {finding.threshold:.1%}."
        sentences.append((words, _ALARM if finding.positive else _INK))
    sentences += [(warning, _WARNING) for warning in prediction.warnings]
    legend = "Colors mark the evidence that the model found, from faint (red) to strong (yellow)."
    sentences.append((f"{provenance.package} {provenance.version}. {legend}", _FAINT))
    return sentences


def _wrapped(sentences: Sequence[tuple[str, _Color]], width: int, size: int) -> list[tuple[str, _Color]]:
    """The sentences in lines that are no wider than ``width`` pixels; a word that is wider alone is cut into lines."""
    font = _font(size)
    lines = []
    for sentence, color in sentences:
        current = ""
        for word in writer.ascii_text(sentence).split():
            longer = f"{current} {word}" if current else word
            if current and font.getlength(longer) > width:
                lines.append((current, color))
                longer = word
            while font.getlength(longer) > width:
                fitting = next(
                    n for n in range(len(longer) - 1, 0, -1) if font.getlength(longer[:n]) <= width or n == 1
                )
                lines.append((longer[:fitting], color))
                longer = longer[fitting:]
            current = longer
        lines.append((current, color))
    return lines


def _put(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[tuple[str, _Color]], size: int, line: int
) -> None:
    left, top = corner
    for number, (sentence, color) in enumerate(lines):
        draw.text((left, top + number * line), sentence, fill=color, font=_font(size))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
