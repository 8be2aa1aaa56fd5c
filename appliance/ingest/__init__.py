"""Ways in. Each ends in `Intake.take`, the one place where a file becomes an acknowledged instance."""

from __future__ import annotations

from collections.abc import Callable

from appliance.config import Priority
from appliance.spool import Spool
from appliance.store import Admission, Arrival, Store


class Intake:
    """Spool, then ledger, then the worker is told.

    Parameters
    ----------
    on_arrival
        Called after each commit of a new instance; must not block.
    """

    def __init__(self, spool: Spool, store: Store, on_arrival: Callable[[], None]) -> None:
        self._spool = spool
        self._store = store
        self._on_arrival = on_arrival

    def take(
        self,
        head: bytes,
        body: bytes,
        *,
        sop_instance_uid: str,
        sop_class_uid: str,
        source: str,
        sender: str,
        ae_title: str = "",
        priority: Priority = "routine",
    ) -> Admission:
        """Make one file durable and give it its row; when this returns, it may be acknowledged.

        Parameters
        ----------
        head, body
            Preamble and file meta information, and the data set as it came: an instance is the same one only if its
            data set is, byte for byte.
        ae_title, priority
            Of the C-STORE request that brought it.

        Raises
        ------
        DiskFullError, SpoolError
            It must not be acknowledged. Where the spool took it and the ledger didn't, the whole file stays there
            without a row, for the sender's next try to find; removing it could hit a twin that arrives just now.
        """
        file = self._spool.put(head, body)
        admission = self._store.receive(
            Arrival(
                sop_instance_uid=sop_instance_uid,
                sop_class_uid=sop_class_uid,
                digest=file.digest,
                file=file.name,
                size=file.size,
                source=source,
                sender=sender,
                ae_title=ae_title,
                priority=priority,
            )
        )
        if admission.outcome == "new":
            self._on_arrival()
        return admission
