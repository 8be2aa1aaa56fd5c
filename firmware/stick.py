"""A stick or disk with the label SCANSIDE: what a field engineer brings, without a keyboard.

`firmware.handover` takes what is on it. What came of it is written to ``scanside-<box>/``, with logs, and the request
for a certificate.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from firmware import handover, provisioning, update
from firmware.box import Box
from firmware.durable import Files


def take(
    box: Box,
    folder: Path,
    say: handover.Say = lambda _: None,
    restart: Callable[[], None] = update.restart,
    reload: Callable[[Box], None] = handover.start_anew,
) -> list[str]:
    """Everything on a stick; a sentence for each thing that was done or refused.

    ``say`` is told them once they lie on the stick, before anything starts again; and how far an update is.
    """
    outcome = handover.take(box, folder, say, by_hand=True)
    said = outcome.said
    answer = folder / f"scanside-{provisioning.machine_id(box)}"
    try:
        provisioning.export_logs(box, answer)
        Files().write(answer / "request.csr", provisioning.request(box, f"scanside-{provisioning.machine_id(box)}"))
        lines = (time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), *said, "")
        Files().write(answer / "what-happened.txt", "\n".join(lines).encode())
    except OSError as error:
        said.append(f"the stick can't be written: {error.strerror}; nothing of the above is less true")
    else:
        said.append(f"what happened, with logs, lies on the stick in {answer.name}")
    os.sync()
    for line in said:
        say(line)
    outcome.follow(box, restart, reload)
    return said
