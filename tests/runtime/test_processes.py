import pytest

from brain_mri_segmentation.runtime.processes import ALONE, Processes

SBATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, Processes(3, 4, 2)),
        (SBATCH, ALONE),  # a batch script itself, which srun did not start
        (
            SBATCH | {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2"},
            Processes(0, 8, 4),
        ),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Processes(1, 2, 2)),
    ],
    ids=["alone", "torchrun", "sbatch", "srun", "srun on one machine"],
)
def test_what_the_launcher_started_is_seen_in_the_environment(monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Processes.started() == expected
