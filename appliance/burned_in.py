"""Whether the pixels of an image may show a name, as far as its header tells."""

from __future__ import annotations

from pydicom import Dataset

from appliance.image import text

_BURNED_IN_UNLESS_DENIED = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, and 77.1, Visible Light
    "1.2.840.10008.5.1.4.1.1.6.",  # Ultrasound
    "1.2.840.10008.5.1.4.1.1.3.",  # Ultrasound Multi-frame
)


def burned_in(dataset: Dataset) -> str | None:
    """Why its pixels may show a name; None where it denies that, or is of a kind whose pixels seldom do."""
    said = text(dataset, "BurnedInAnnotation")
    if said == "YES":
        return "BurnedInAnnotation is YES"
    if said != "NO" and text(dataset, "SOPClassUID").startswith(_BURNED_IN_UNLESS_DENIED):
        return "BurnedInAnnotation is not NO, and images of this kind often show names"
    return None
