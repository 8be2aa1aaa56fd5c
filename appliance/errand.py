"""What `appliance.errand_process` does at the press of a button of the page: tests, the support bundle, a rollback."""

from __future__ import annotations

import msgspec

SELF_TEST, CONNECTIONS, BUNDLE, ROLLBACK = "self-test", "connections", "support-bundle", "rollback"
BUNDLE_NAME = "scanside-support.zip"


class Asked(msgspec.Struct, frozen=True):
    """``what`` is to be done; of a rollback the ``model``, and who says so and why."""

    what: str
    model: str = ""
    by: str = ""
    why: str = ""
