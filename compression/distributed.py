"""One process or several that learn together: ``torchrun --nproc-per-node 2 -m compression build RECIPE``.

Processes on a CPU talk by gloo, on GPUs by NCCL. Ran here on CPUs only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")
# Others wait in a barrier while the first process prunes, quantizes and evaluates, which may take days.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Group:
    """The processes that learn together, seen from one of them.

    Attributes
    ----------
    rank
        The number of this process; 0 alone writes files and prints.
    size
        How many there are.
    local_rank
        Its number on its machine, which is that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        return self.rank == 0

    def device(self) -> torch.device:
        """This process's GPU, or the CPU where there is none."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        device = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(device)
        return device

    def wait(self) -> None:
        """Until every process is here."""
        self.agree(None)

    def agree(self, value: T) -> T:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, in all of them."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size
        distributed.all_gather_object(held, value)
        return held

    def mean(self, *values: float) -> list[float]:
        """The mean over the processes of each value; no number where one of them is none."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(sums)
        return [float(each) / self.size for each in sums]

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first process runs what is inside, then the others do, one after another."""
        for rank in range(self.size):
            if rank == self.rank:
                yield
            self.wait()

    def shared(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network with gradients averaged over the processes, begun with the first one's weights."""
        if self.size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def unsynchronized(self, network: nn.Module) -> AbstractContextManager[None]:
        """Where gradients are only added up, and averaged later."""
        if isinstance(network, nn.parallel.DistributedDataParallel):
            held: AbstractContextManager[None] = network.no_sync()  # type: ignore[no-untyped-call]
            return held
        return nullcontext()


SINGLE = Group()


@contextmanager
def start(environment: Mapping[str, str] = os.environ) -> Iterator[Group]:
    """The group that torchrun made this process a member of, or a group of its own."""
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE
        return
    group = Group(int(environment["RANK"]), size, int(environment["LOCAL_RANK"]))
    gpu = group.device().type == "cuda"
    distributed.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=_PATIENCE)
    yield group
    # Only after a success: a process that fails must not wait for the others, whom torchrun then ends.
    distributed.destroy_process_group()


def use_threads(most: int) -> None:
    """Let torch use no more than that, nor more than the cores or OMP_NUM_THREADS allow.

    Threads without a core of their own wait for each other most of the time.
    """
    torch.set_num_threads(min(most, torch.get_num_threads()))


def moved(value: Any, device: torch.device) -> Any:
    """The same with each tensor in it, in tuples, lists and dictionaries, too, on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, (tuple, list)):
        return type(value)(moved(each, device) for each in value)
    if isinstance(value, dict):
        return {key: moved(each, device) for key, each in value.items()}
    return value


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are, and so its inputs must be."""
    return next(network.parameters()).device
