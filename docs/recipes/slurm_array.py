"""An array of Slurm jobs by submitit; where there is no Slurm, processes of this machine.

    uv run --with submitit python docs/recipes/slurm_array.py runs/array minatar/impala minatar/bmg

What Slurm takes a node from, or ends at its time limit, saves a checkpoint, is queued again, and
goes on with what it finds in its run folder, bit for bit where `bmg train --resume` does.
"""

import os
import signal
import sys

import submitit

import bmg

SEEDS = (0, 1)
EACH = {"cpus_per_task": 4, "mem_gb": 16, "timeout_min": 24 * 60, "slurm_array_parallelism": 8}


class Training(submitit.helpers.Checkpointable):
    """A run that is queued again with what it was called with."""

    def __call__(self, config: str, seed: int, run_dir: str) -> str:
        """Trains and gives the run's status; a signal of submitit's ends it with a checkpoint."""
        number = signal.SIGUSR2
        queue_again = signal.signal(number, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        status = bmg.train(config, run_dir, seed=seed).summary["status"]
        signal.signal(number, queue_again)
        if status == "interrupted":
            signal.raise_signal(number)
        return status


def main(folder: str, *configs: str) -> None:
    """Queues a job for each configuration and seed, and tells how each has ended."""
    executor = submitit.AutoExecutor(folder=f"{folder}/logs")
    executor.update_parameters(**EACH)
    with executor.batch():
        jobs = [
            executor.submit(Training(), config, seed, f"{folder}/{config.replace('/', '-')}-{seed}")
            for config in configs
            for seed in SEEDS
        ]
    for job in jobs:
        sys.stdout.write(f"{job.job_id} {job.result()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
