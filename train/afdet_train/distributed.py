"""The process group of torchrun, or a single process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from trt_afdet.errors import InvalidValueError


@dataclass(frozen=True)
class Ranks:
    """This process and its group.

    Attributes:
        rank: Index of this process; rank 0 writes files and messages.
        world: Number of processes.
        device: The device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; every rank must call this."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(value)
        return bool(value.item() > 0)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all ranks; every rank must call this."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """One process of each machine runs the block first; the others then find its files.

        Every rank must enter. If the first process fails, the others still run the block.
        """
        if self.world == 1:
            yield
            return
        # Gloo waits without the GPU, and long enough to read a large dataset.
        group: Any = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        if not first:
            dist.barrier(group)
        try:
            yield
        finally:
            if first:
                dist.barrier(group)

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()


def pick_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the first CUDA device, or the CPU without CUDA."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidValueError(
            "unknown device", got=name, hint="auto, cpu, cuda, cuda:1"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidValueError(
            "no CUDA device is available", got=name, hint="use train.device=cpu"
        )
    return device


@contextmanager
def process_group(device_name: str) -> Iterator[Ranks]:
    """Joins the group if torchrun started this process, on any number of machines."""
    device = pick_device(device_name)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
