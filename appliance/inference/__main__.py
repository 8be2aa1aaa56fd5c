"""The child of `appliance.inference.InferenceProcess`: opens a backend, proves it, then runs what lies in the slots."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from appliance import backends, package, process, receipt
from appliance.errors import ApplianceError, BackendError
from appliance.inference import DONE, JOB, Arrays, Start, Started, inputs_of


def main() -> None:
    parent, descriptor, memory_file, stderr = map(int, sys.argv[1:])
    process.die_with_parent(parent)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # to the whole service; its parent ends it when it is done with it
    process.be_the_first_to_go()
    with socket.socket(fileno=descriptor) as line:
        start = msgspec.json.decode(line.recv(1 << 16), type=Start, dec_hook=lambda _, value: Path(value))
        try:
            server = _Server(start, memory_file)
        except ApplianceError as error:
            line.send(msgspec.json.encode(Started(reason=str(error), unprepared=isinstance(error, _UnpreparedError))))
            return
        os.dup2(stderr, sys.stdout.fileno())
        os.dup2(stderr, sys.stderr.fileno())
        line.send(msgspec.json.encode(server.started))
        lanes = [
            threading.Thread(target=server.serve, args=(line,), daemon=True) for _ in range(start.options.lanes - 1)
        ]
        for lane in lanes:
            lane.start()
        server.serve(line)


class _UnpreparedError(BackendError):
    """The network has to be compiled first."""


class _Server:
    def __init__(self, start: Start, memory_file: int) -> None:
        opened = package.read(Path(start.path), None)  # its signature was checked by the parent
        if opened.sha256 != start.sha256:
            raise BackendError(f"{start.path} was changed meanwhile")
        module, options = backends.module(start.backend), start.options
        artifact = opened.artifact(module.TARGET)
        if reason := module.probe(options.device):
            raise BackendError(reason)
        preparing = backends.preparing(module)
        if preparing is not None and not preparing.is_prepared(artifact, options):
            raise _UnpreparedError("its network has not been compiled on this device yet")
        single = replace(options, batch=1)
        self._backends = {1: module.open(artifact, single)}
        if options.batch > 1:
            self._backends[options.batch] = module.open(artifact, options)
        outputs = receipt.check(opened, module, self._backends[1])
        made = None
        if start.prove:
            made = receipt.prove(opened, module, self._backends[1], single)
        self.started = Started(receipt=made, device=self._backends[1].device, outputs=outputs)
        inputs = Arrays(inputs_of(opened, options.batch), start.slots)
        shapes = {name: (options.batch, *shape) for name, shape in outputs.items()}
        results = Arrays(shapes, start.slots, inputs.end)
        os.ftruncate(memory_file, results.end)
        memory = mmap.mmap(memory_file, results.end)
        self._inputs, self._outputs = inputs.views(memory), results.views(memory)

    def serve(self, line: socket.socket) -> None:
        """One lane: a job after another until the parent is gone."""
        while message := line.recv(JOB.size):
            slot, count = JOB.unpack(message)
            inputs = self._inputs[slot]
            if count < len(next(iter(inputs.values()))):  # one image in a slot for a batch
                inputs = {name: array[:count] for name, array in inputs.items()}
            begin = time.perf_counter()
            try:
                results = self._backends[count].run(inputs)
                for name, array in self._outputs[slot].items():
                    array[:count] = results[name]
            except Exception as error:  # noqa: BLE001  told to the parent, which waits for an answer
                line.send(DONE.pack(slot, -1.0) + str(error).encode()[:4000])
            else:
                line.send(DONE.pack(slot, time.perf_counter() - begin))


if __name__ == "__main__":
    main()
