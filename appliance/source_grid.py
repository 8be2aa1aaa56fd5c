"""The source images as highdicom wants them: references and geometry, nothing else of their headers.

What a header holds beyond that, right or wrong, never comes near a result.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import PixelMeasuresSequence
from pydicom import Dataset

from appliance import writer
from appliance.image import Image
from appliance.result import Provenance
from appliance.volume import stack


def sources(images: Sequence[Image]) -> list[Dataset]:
    """One for each image; only slices lie in space."""
    found = []
    lossy = any(image.header.get("LossyImageCompression") == "01" for image in images)
    for image in images:
        source = writer.evidence(image)
        source.Rows, source.Columns = image.pixels.shape
        if lossy:
            source.LossyImageCompression = "01"  # once lossy, always lossy (PS3.3 C.7.6.1.1.5)
        found.append(source)
    if len(images) > 1:
        volume = stack(images)  # which has checked the geometry of the headers
        distances = dict(zip(volume.order, volume.spacing, strict=True))
        for source, image in zip(found, images, strict=True):
            source.FrameOfReferenceUID = image.header.FrameOfReferenceUID
            indicator = writer.valid(image.header, "PositionReferenceIndicator")
            source.PositionReferenceIndicator = indicator.value if indicator is not None else ""
            source.ImagePositionPatient = [float(value) for value in image.header.ImagePositionPatient]
            source.ImageOrientationPatient = [float(value) for value in image.header.ImageOrientationPatient]
            source.PixelSpacing = [distances[1], distances[2]]
            source.SliceThickness = source.SpacingBetweenSlices = distances[0]  # from the positions
    return found


def series_uid(images: Sequence[Image], provenance: Provenance, kind: str) -> str:
    """The Series Instance UID of what lies on the source's grid; of a volume, in the source's Frame of Reference."""
    place = str(images[0].header.FrameOfReferenceUID) if len(images) > 1 else ""
    return writer.series_uid(images[0], provenance, kind, place)


def pixel_measures(image: Image, shape: tuple[int, ...]) -> PixelMeasuresSequence | None:
    """Of a single image on a grid of some ``(rows, columns)`` over it, where it states its spacing.

    Without a Slice Thickness, which a projection has not; highdicom can't read a Segmentation back that has the one and
    not the other, and needs neither where the pixels are the source's own.
    """
    if image.spacing is None:
        return None
    rows, columns = (
        spacing * own / other for spacing, own, other in zip(image.spacing, image.pixels.shape, shape, strict=True)
    )
    return PixelMeasuresSequence(pixel_spacing=(rows, columns), slice_thickness=None)


def settle(result: Dataset, uid: str) -> None:
    """Replace the Dimension Organization UID that highdicom draws by chance."""
    for item in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
