"""What readers say of results, on its way to the destinations that ask for it.

That there is something to send is recorded with the assessment itself. The document is made a little later, since a
reader goes from finding to finding, and goes through the outbox as a result does; its image's state does not change by
that. A later assessment makes another document, which names those that it takes the place of.
"""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import Any

from appliance import assessment_report, writer
from appliance.assessment_store import Assessments, Filed
from appliance.config import Config
from appliance.errors import SpoolError
from appliance.spool import write_durably
from appliance.store import WrittenObject

log = logging.getLogger("scanside.delivery")

_QUIET_SECONDS = 10.0


class AssessmentDelivery:
    """For the thread of the worker."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._store = Assessments(config.ledger_path)

    def look(self) -> bool:
        """Make the documents of one image, if any are due; whether something is to be sent now.

        Raises
        ------
        SpoolError
            They stay due.
        """
        due = self._store.due(time.time() - _QUIET_SECONDS)
        if due is None:
            return False
        try:
            return self._make(due)
        except SpoolError:
            raise
        except Exception:  # of one image; it must keep neither images nor other documents back
            log.exception("instance %d: its assessments can't be sent and are tried again", due["instance_id"])
            self._store.postpone(due, time.time() + self._config.delivery.longest_retry_seconds)
            return False

    def _make(self, due: dict[str, Any]) -> bool:
        identifier = due["instance_id"]
        earlier = self._store.documents(identifier)
        made = assessment_report.documents(self._config, self._store, identifier, self._store.counting(identifier))
        if made is None:
            log.error("instance %d: its assessments are sent nowhere: %s", identifier, assessment_report.NO_HEADER)
            self._store.file(due, [], [], f"what readers said is sent nowhere: {assessment_report.NO_HEADER}")
            return False
        known = {each.sop_instance_uid for each in earlier}
        new = [(filed, dataset) for filed, dataset in made if filed.sop_instance_uid not in known]
        written: list[tuple[WrittenObject, Filed]] = []
        for number, (filed, dataset) in enumerate(new, len(earlier) + 1):
            kind, content = f"assessment_{number}", writer.to_bytes(dataset)
            name = str(Path(f"{identifier:08d}") / f"{kind}.dcm")
            write_durably(self._config.results_path / name, content)
            digest = hashlib.sha256(content).hexdigest()
            written.append((WrittenObject(kind, str(dataset.SOPClassUID), filed.sop_instance_uid, name, digest), filed))
        self._store.file(due, written, self._destinations(identifier))
        log.info("instance %d: %d documents of assessments to send", identifier, len(written))
        return bool(written)

    def _destinations(self, identifier: int) -> list[str]:
        """Those that were to get the result, and want this, too."""
        outcome = (self._store.instance(identifier) or {}).get("outcome")
        positive, urgent = outcome in ("positive", "urgent"), outcome == "urgent"
        return [each.name for each in self._config.destinations if each.wants("assessment", positive, urgent)]
