"""How much waits for people, for a screen on a wall: numbers alone, nothing of a patient."""

from __future__ import annotations

from typing import Any

from appliance.database import Database

# Word for word the condition of the index, in which alone it looks.
_FIRST = """
SELECT count(*) AS count, min(received_at) AS oldest FROM instance INDEXED BY instance_read_first
WHERE (lead_id IS NULL OR lead_id = id) AND reading_rank < 5 AND reviewed_at IS NULL
"""


class WaitingStore(Database):
    def read_first(self) -> dict[str, Any]:
        """How many results and images are to be read before all others, and when the ``oldest`` of them came."""
        return self._rows(_FIRST)[0]
