"""Population-based training (Jaderberg et al. 2017) of MinAtar's IMPALA, by Ray Tune.

The baseline that meta-gradients are compared with: members learn side by side at different values
of a hyper-parameter; a bad one goes on from a good one's parameters, at a value near that one's.

    uv run --with "ray[tune]" python docs/recipes/population_based_training.py \
        --key agent.entropy_cost --low 0.001 --high 1 --members 8 --frames 1000000
"""

import argparse
import json
import os
import pickle
import random
import sys
import tempfile
from pathlib import Path

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # members use the packages of this process

import ray
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

from configs.load import load
from scripts.on_device import use_all_cores
from scripts.runtime import use_compilation_cache
from scripts.train_on_device import build_learner

STATE = "state.pickle"


class Member(tune.Trainable):
    """One member: a seed of its own, on one core."""

    def setup(self, config):
        """Builds its learner; Tune calls it once more whenever the value has changed."""
        use_all_cores(1, 1)
        use_compilation_cache()
        words = [f"{key}={value}" for key, value in config.items() if "." in key]
        words += [f"seed={config['seed']}", f"total_frames={config['frames']}", "seeds=1"]
        self._learner, _ = build_learner(load("minatar/impala", words), Path())
        self._state = self._learner.place(self._learner.initial_state())
        self._steps = config["interval"] // self._learner.steps

    def step(self):
        """Plays and learns so many frames, and gives their mean return."""
        returns = episodes = 0.0
        for _ in range(self._steps):
            self._state, metrics = self._learner.step(self._state)
            returns += float(metrics["episode_returns"][0])
            episodes += float(metrics["episodes"][0])
        return {"episode_return": returns / max(episodes, 1.0)}

    def save_checkpoint(self, checkpoint_dir):
        """Keeps parameters, optimiser, environments and random key."""
        state = self._learner.collect(self._state)
        (Path(checkpoint_dir) / STATE).write_bytes(pickle.dumps(state))

    def load_checkpoint(self, checkpoint):
        """Goes on from another member's, or its own."""
        state = pickle.loads((Path(checkpoint) / STATE).read_bytes())
        self._state = self._learner.place(state)


def main():
    """Trains a population and writes each member's returns and values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--key", default="agent.entropy_cost")
    parser.add_argument("--low", type=float, default=1e-3)
    parser.add_argument("--high", type=float, default=1.0)
    parser.add_argument("--game", default="breakout")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--frames", type=int, default=1_000_000, help="of each member")
    parser.add_argument("--rounds", type=int, default=10, help="of exploiting and exploring")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("population.json"))
    asked = parser.parse_args()

    random.seed(asked.seed)  # the scheduler's
    values = tune.loguniform(asked.low, asked.high)
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        hyperparam_mutations={asked.key: values},
    )
    space = {
        asked.key: values,
        "env.game": asked.game,
        "seed": tune.randint(0, 2**31 - 1),
        "frames": asked.frames,
        "interval": asked.frames // asked.rounds,
    }
    ray.init(num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False)
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(Member, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="episode_return",
                mode="max",
                num_samples=asked.members,
                scheduler=scheduler,
                search_alg=tune.search.BasicVariantGenerator(random_state=asked.seed),
            ),
            run_config=tune.RunConfig(
                storage_path=folder, stop={"training_iteration": asked.rounds}
            ),
        )
        results = [
            {"value": result.config[asked.key], **_curve(result.metrics_dataframe, asked.key)}
            for result in tuner.fit()
        ]
    results.sort(key=lambda member: -member["returns"][-1])
    asked.out.write_text(json.dumps({**vars(asked), "out": None, "population": results}, indent=1))
    best = results[0]
    sys.stdout.write(f"best member: return {best['returns'][-1]:.1f} at {best['value']:.4g}\n")


def _curve(frame, key):
    """Mean return of each round, and the value that it was played at."""
    return {
        "returns": [round(x, 3) for x in frame["episode_return"]],
        "values": [float(x) for x in frame[f"config/{key}"]],
    }


if __name__ == "__main__":
    main()
