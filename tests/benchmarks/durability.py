"""500 radiographs on 4 associations at once, while the appliance is killed 20 times: nothing lost, nothing doubled."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pydicom

from appliance.send import Destination, send_files
from tests.dicom_files import make_radiograph
from tests.running import RunningAppliance

COUNT, ASSOCIATIONS, KILLS = 500, 4, 20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = [make_radiograph(root / "images" / f"{n}.dcm", rows=1024, columns=900, seed=n) for n in range(COUNT)]
        appliance = RunningAppliance(root / "appliance")
        appliance.start()
        appliance.fix_ports()
        acknowledged: Counter[str] = Counter()
        senders = [
            threading.Thread(target=_send_until_taken, args=(appliance, files[n::ASSOCIATIONS], acknowledged))
            for n in range(ASSOCIATIONS)
        ]
        begin = time.monotonic()
        for sender in senders:
            sender.start()
        chance = random.Random(1)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.2, 2.0))
            appliance.kill()
            appliance.start()
        for sender in senders:
            sender.join()
        rows = appliance.wait_final(len(files), timeout=600)
        appliance.stop()
        reports = Counter(_source(path) for path in (appliance.data / "results").glob("*/structured_report.dcm"))
        states = Counter(row["state"] for row in rows)
        uids = Counter(row["sop_instance_uid"] for row in rows)
        seconds = time.monotonic() - begin
        print(f"{KILLS} times SIGKILL, {COUNT} radiographs on {ASSOCIATIONS} associations, {seconds:.0f} s")
        print(f"acknowledged {len(acknowledged)}, of them more than once {sum(n > 1 for n in acknowledged.values())}")
        print(f"ledger rows {len(rows)}, states {dict(states)}, reports {sum(reports.values())}")
        lost = set(acknowledged) - set(uids)
        doubled = [uid for uid, n in (uids | reports).items() if n > 1]
        unreported = set(acknowledged) - set(reports)
        print(f"lost {len(lost)}, doubled {len(doubled)}, without a report {len(unreported)}")
        assert not lost
        assert not doubled
        assert not unreported


def _send_until_taken(appliance: RunningAppliance, files: list[Path], acknowledged: Counter[str]) -> None:
    """As a scanner does: whatever got no answer, or was refused, is sent again; some of what was taken, too."""
    destination = Destination("SCANSIDE", "127.0.0.1", appliance.port)
    waiting = list(files)
    deadline = time.monotonic() + 900
    while waiting:
        assert time.monotonic() < deadline
        left = []
        for sent in send_files(waiting, destination, "BENCH", {}, associations=1):
            if sent.ok:
                acknowledged[sent.sop_instance_uid] += 1
            else:
                left.append(sent.path)
        waiting = left
        time.sleep(0.3)
    for sent in send_files(files[::10], destination, "BENCH", {}, associations=1):
        acknowledged[sent.sop_instance_uid] += sent.ok


def _source(report: Path) -> str:
    evidence = pydicom.dcmread(report).CurrentRequestedProcedureEvidenceSequence[0]
    return str(evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


if __name__ == "__main__":
    main()
