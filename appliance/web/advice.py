"""What to do about an image that has no result: what is true for its reason, not only for its state."""

from __future__ import annotations

from typing import Any

from appliance.errors import NO_BODY_PART, NO_PACKAGE, RAW_IMAGE, THIS_DEVICE_READS
from appliance.web.language import gettext, marked

_BY_STATE = {
    "rejected": marked("Mend what the reason names, and send it again."),
    "failed": marked("See the device page for what is wrong, then read it again."),
    "quarantined": marked("Read it again, or look at it elsewhere."),
    "withheld": marked("Read the image without it, or release the result on the page of safe mode."),
}
# By what a reason says why no model is meant for an image; the first that fits.
_BY_REASON = {
    NO_PACKAGE: marked("Install a model package, then read it again."),
    RAW_IMAGE: marked("Send the image that the modality makes of it to be looked at (For Presentation)."),
    NO_BODY_PART: marked("Have the modality state the body part (Body Part Examined), and send it again."),
    THIS_DEVICE_READS: marked(
        "No model here is meant for such an image, so there is nothing to mend: read it without. It can be sent again "
        "once a package that is meant for it is installed."
    ),
}


def next_step(row: dict[str, Any]) -> str:
    """Of a row of the ledger, in the reader's language; '' where there is nothing to do."""
    if row["state"] == "rejected":
        for words, step in _BY_REASON.items():
            if words.lower() in row["reason"].lower():
                return gettext(step)
    return gettext(_BY_STATE[row["state"]]) if row["state"] in _BY_STATE else ""
