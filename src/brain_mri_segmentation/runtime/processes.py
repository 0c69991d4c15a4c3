"""The processes of one run on several devices or machines, as torchrun or SLURM started them."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """How many processes work together, and which one this is.

    Attributes:
        rank: Number of this process, from 0; process 0 alone writes files.
        count: Number of processes on all machines.
        per_machine: Number of processes on each machine, one a device.
    """

    rank: int = 0
    count: int = 1
    per_machine: int = 1

    @classmethod
    def started(cls) -> "Processes":
        """Read what torchrun or srun said; one process where neither did."""
        rank = _number("RANK", "SLURM_PROCID", 0)
        count = _number("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", 1)
        machines = int(os.environ.get("SLURM_STEP_NUM_NODES") or 1)
        return cls(rank, count, int(os.environ.get("LOCAL_WORLD_SIZE") or count // machines))


ALONE = Processes()


def started_again() -> bool:
    """Say whether torchrun or SLURM has started these processes before."""
    names = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(int(os.environ.get(name) or 0) for name in names)


def _number(torchrun: str, slurm: str, otherwise: int) -> int:
    return int(os.environ.get(torchrun) or os.environ.get(slurm) or otherwise)
