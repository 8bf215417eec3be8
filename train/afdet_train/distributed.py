"""The process group under torchrun, or none."""

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
    """This process among all.

    Attributes:
        rank: 0 writes files and talks.
        world: Number of processes.
        device: Where this process computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; every rank must ask."""
        if self.world == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(value)
        return bool(value.item() > 0)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all ranks; every rank must ask."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """One process of each machine goes first; the others then find what it left on disk.

        Every rank must enter. If the first fails, the others go on, and fail for themselves.
        """
        if self.world == 1:
            yield
            return
        # Gloo waits without the GPU, and for as long as it takes to read a large dataset.
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
    """``auto`` is the first CUDA device if there is one, else the CPU."""
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
    """Joins torchrun's group if there is one, on any number of machines."""
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
