# SPDX-License-Identifier: Apache-2.0
"""Which of several processes this one is, and what it may use of the computer.

Decisions: nothing is sent between the processes; all there is to know stands in the environment, put there by torchrun
and `accelerate launch` (RANK, WORLD_SIZE, LOCAL_...), by an MPI or by srun. A batch script of SLURM that calls the
command without srun is one process, although SLURM tells it of several tasks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import HubsepError
from ..hub import arguments


NAMES = (  # number, how many, number on this computer, how many there
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)
MAX_SHARDS = 1_000_000

Item = TypeVar("Item")


@dataclass(frozen=True)
class Place:
    """The place of a process among those that work on one folder.

    Attributes:
        rank: number of the process, from 0.
        world: how many there are.
        local_rank: number on this computer, from 0.
        local_world: how many there are on this computer.
        shard: the part of the inputs this and its sibling processes work on, from 0.
        shards: how many parts there are.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    shard: int = 0
    shards: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str], shard: str | None = None) -> Place:
        """Reads the environment and `--shard`.

        Raises:
            HubsepError: if one of them is not a place.
        """
        part, parts = parse_shard(shard) if shard is not None else (0, 1)
        for names in NAMES:
            if names[0] in environment and names[1] in environment:
                rank, world, local_rank, local_world = (_number(environment, name) for name in names)
                if rank is None or world is None or not 0 <= rank < world:
                    setting = f"{names[0]}={environment[names[0]]} and {names[1]}={environment[names[1]]}"
                    raise HubsepError(f"{setting} are no place among processes; unset them, or start with torchrun")
                return cls(rank, world, local_rank or 0, local_world or 1, part, parts)
        return cls(shard=part, shards=parts)

    @property
    def leader(self) -> bool:
        """Whether it speaks for the processes of this computer."""
        return self.local_rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is but one process and one part."""
        return self.world == 1 and self.shards == 1

    @property
    def siblings(self) -> list[int]:
        """The other processes, the next ones first."""
        return [(self.rank + step) % self.world for step in range(1, self.world)]

    def is_here(self, rank: int) -> bool:
        """Whether another process runs on this computer."""
        return rank // self.local_world == self.rank // self.local_world

    def name(self, rank: int) -> str:
        """What tells a process from all those of other ranks and other parts."""
        return f"{self.shard * self.world + rank:05d}-of-{self.shards * self.world:05d}"

    def part(self, items: Sequence[Item]) -> list[Item]:
        """The items of this part, which are dealt out like cards."""
        return list(items[self.shard :: self.shards])

    def share(self, items: Sequence[Item], rank: int) -> list[Item]:
        """The items a process begins with, out of those of the part."""
        return list(items[rank :: self.world])


def parse_shard(text: str) -> tuple[int, int]:
    """`2/4` is the second of four parts: (1, 4).

    Raises:
        HubsepError: if it is not of that form.
    """
    match = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts <= MAX_SHARDS:
        raise HubsepError(f"--shard needs K/N with K from 1 to N, such as 2/4, got {text!r}")
    return part - 1, parts


def own_device(place: Place) -> str | None:
    """The GPU of this process, if it is one of several on a computer with several; else the pipeline chooses.

    The processes of a computer with fewer GPUs than processes take turns.
    """
    import torch

    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true"):
        return "cpu"
    count = torch.accelerator.device_count()
    kind = torch.accelerator.current_accelerator()
    if place.local_world == 1 or count < 2 or kind is None:
        return None
    return f"{kind.type}:{place.local_rank % count}"


def check_device(name: str | None) -> str | None:
    """The name of a device, if this computer has it.

    Raises:
        HubsepError: naming those it has.
    """
    arguments.check_device(name, "--device ")
    return name


def share_threads(place: Place) -> None:
    """Divides the cores among the processes of this computer, unless the user said how many threads there are to be.

    torchrun sets OMP_NUM_THREADS to 1 where the user did not, which leaves most of the cores idle.
    """
    import torch

    if place.local_world == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    per_task = _number(os.environ, "SLURM_CPUS_PER_TASK")
    torch.set_num_threads(max(1, per_task or cores // place.local_world))


def one_process_instead_of_many(environment: Mapping[str, str]) -> str:
    """What to say when `accelerate launch --cpu` was asked for several processes; "" in all other cases.

    It starts a single one, unless it is given an MPI, and does not tell it how many were wanted (accelerate 1.15).
    """
    started = "ACCELERATE_USE_CPU" in environment and "MASTER_ADDR" in environment
    if not started or any(number in environment for number, *_ in NAMES):
        return ""
    return (
        "accelerate launch --cpu starts one process, however many were asked for; with --multi_gpu in its place, "
        "which needs no GPU, or with torchrun, there are several"
    )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """The number a variable begins with: SLURM writes `2(x3)` for three computers with two tasks each."""
    match = re.match(r"\d+", environment.get(name, ""))
    return int(match[0]) if match else None


__all__ = [
    "Place",
    "check_device",
    "one_process_instead_of_many",
    "own_device",
    "parse_shard",
    "share_threads",
]
