"""This software as DICOM names it: in associations and in the head of the files that it writes (PS3.7 D.3.3.2)."""

from __future__ import annotations

import uuid

from pydicom.uid import UID

from appliance import __version__

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "scanside")
IMPLEMENTATION_CLASS_UID = UID(f"2.25.{uuid.uuid5(NAMESPACE, 'implementation').int}")
IMPLEMENTATION_VERSION_NAME = f"SCANSIDE_{__version__}"[:16]
