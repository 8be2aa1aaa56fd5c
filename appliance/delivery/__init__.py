"""Ways out: the outbox, and one module for each protocol; a new one is a new module and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.config import Config, Destination
    from appliance.delivery.way import Committer, Way


def way_to(destination: Destination, config: Config) -> Way:
    """How a destination is reached; loads that protocol only."""
    if destination.protocol == "dicom":
        from appliance.delivery.dicom import DicomWay

        return DicomWay(destination, config)
    if destination.protocol == "mllp":
        from appliance.delivery.mllp import MllpWay

        return MllpWay(destination, config)
    if destination.protocol == "fhir":
        from appliance.delivery.fhir_endpoint import FhirWay

        return FhirWay(destination, config)
    if destination.protocol == "folder":
        from appliance.delivery.folder import FolderWay

        return FolderWay(destination, config)
    from appliance.delivery.stow import StowWay

    return StowWay(destination, config)


def committer_of(destination: Destination, config: Config) -> Committer | None:
    """Who asks a destination for storage commitment; None where it is not to be asked."""
    if not destination.storage_commitment:
        return None
    from appliance.delivery.dicom import DicomWay

    return DicomWay(destination, config)
