"""Associations that this side opens, on which each answer reaches whoever asked."""

from __future__ import annotations

import threading
from typing import Any

from pynetdicom.association import Association


def keep_answers(association: Association) -> None:
    """Let the association's own thread take no DIMSE message; before anything is asked on it.

    pynetdicom 3.0.4 lets that thread wait while ``send_c_store`` and the like wait for their answer, but between its
    ``_is_paused = True`` and the ``wait`` that follows (association.py, ``_run_reactor``) a request may still go out:
    then the thread takes the answer, drops it as no request, and whoever asked waits for the whole DIMSE timeout; about
    one C-STORE in 1,500. Where this side has opened the association, nothing but answers is in that queue: an
    N-EVENT-REPORT goes past it, and nothing here asks for a C-GET.
    """
    take = association.dimse.get_msg

    def take_for_others(block: bool = False) -> Any:
        return (None, None) if threading.current_thread() is association else take(block)

    association.dimse.get_msg = take_for_others  # type: ignore[method-assign]
