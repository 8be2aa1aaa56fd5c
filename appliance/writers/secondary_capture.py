"""Secondary Capture: the radiograph beside its heat map, with the finding in words, for any viewer at all."""

from __future__ import annotations

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
_MARGIN = 16
_TEXT_SIZE = 22
_LINE = 32
_INK, _PAPER, _ALARM, _WARNING = (235, 238, 240), (14, 17, 20), (255, 122, 89), (255, 209, 102)


class SecondaryCaptureWriter:
    """See the module; `appliance.writer.Writer`."""

    kind = "secondary_capture"

    def accepts(self, prediction: Prediction) -> bool:
        return bool(prediction.activation_maps)

    def write(self, images: Sequence[Image], prediction: Prediction, provenance: Provenance) -> list[Dataset]:
        return [self._write(image, prediction, provenance) for image in images]

    def _write(self, image: Image, prediction: Prediction, provenance: Provenance) -> Dataset:
        source = writer.evidence(image)
        capture = hd.sc.SCImage(
            pixel_array=picture(image, prediction, provenance),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            study_instance_uid=source.StudyInstanceUID,
            series_instance_uid=writer.derived_uid(source.StudyInstanceUID, provenance.package_sha256, self.kind),
            series_number=9002,
            sop_instance_uid=writer.derived_uid(image.sop_instance_uid, provenance.package_sha256, self.kind),
            instance_number=1,
            manufacturer=writer.MANUFACTURER,
            patient_orientation=("L", "F"),
        )
        writer.inherit(capture, image)
        writer.stamp(capture, provenance, writer.ascii_text(f"AI heat map: {provenance.package}"))
        capture.DateOfSecondaryCapture, capture.TimeOfSecondaryCapture = capture.ContentDate, capture.ContentTime
        # Two panels side by side have no one orientation, and no side of the body can be claimed for them.
        capture.PatientOrientation = None
        capture.Laterality = None
        capture.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        capture.ConversionType = "WSD"
        capture.BurnedInAnnotation = "NO"  # the burned-in text identifies no patient (PS3.3 C.7.6.1.1)
        capture.DerivationDescription = writer.ascii_text(
            f"Radiograph beside the class activation map of {provenance.package} {provenance.version}. {writer.RESEARCH_USE}"
        )[:1024]
        capture.SourceImageSequence = [_reference(image)]
        return capture


def _reference(image: Image) -> Dataset:
    """Why the source is referenced: it was the input of a process (PS3.16 CID 7202)."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = code.value, "DCM", code.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def picture(image: Image, prediction: Prediction, provenance: Provenance) -> np.ndarray:
    """RGB uint8 ``(rows, columns, 3)``: original, original under the strongest finding's heat map, text below."""
    original = render.display(image, _PANEL_LONGEST)
    finding = max(prediction.findings, key=lambda each: each.probability)
    overlay = render.heat(prediction.activation_maps[finding.label], original.shape)
    rows, columns = original.shape
    width = max(2 * columns + 3 * _MARGIN, 640)
    lines = _lines(prediction, provenance, width - 2 * _MARGIN)
    canvas = PillowImage.new("RGB", (width, rows + 3 * _MARGIN + _LINE * len(lines)), _PAPER)
    canvas.paste(PillowImage.fromarray(original), (_MARGIN, _MARGIN))
    canvas.paste(PillowImage.fromarray(render.blend(original, overlay)), (width - columns - _MARGIN, _MARGIN))
    draw = ImageDraw.Draw(canvas)
    for number, (sentence, color) in enumerate(lines):
        draw.text((_MARGIN, rows + 2 * _MARGIN + number * _LINE), sentence, fill=color, font=_font())
    return np.asarray(canvas)


def _lines(prediction: Prediction, provenance: Provenance, width: int) -> list[tuple[str, tuple[int, int, int]]]:
    sentences = [(writer.RESEARCH_USE, _INK)]
    for finding in prediction.findings:
        words = f"{finding.words} Probability {finding.probability:.0%}, threshold {finding.threshold:.0%}."
        sentences.append((words, _ALARM if finding.positive else _INK))
    sentences += [(warning, _WARNING) for warning in prediction.warnings]
    sentences.append((f"{provenance.package} {provenance.version}; the colors show where the model looked.", _INK))
    return [(line, color) for sentence, color in sentences for line in _wrapped(writer.ascii_text(sentence), width)]


def _wrapped(sentence: str, width: int) -> list[str]:
    lines = [""]
    for word in sentence.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font().getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_SIZE)
