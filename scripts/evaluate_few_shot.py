"""`bmg evaluate` of few-shot learning: how well new tasks of the test split are learned."""

from pathlib import Path
from typing import Any

import numpy as np

from agents.few_shot import MetaParams
from configs.schema import Config
from learner.run_folder import write_json
from scripts import few_shot
from scripts.output import say
from scripts.report.seed_statistics import mean_interval
from scripts.trained import kept_checkpoints, restored

TASKS = 600  # as published results of few-shot learning have


def evaluate(path: Path, config: Config, seed: int, tasks: int | None) -> int:
    """Learns test tasks from the first weights of each seed and writes `evaluation.json`.

    Args:
        path: of the run folder.
        config: of the run.
        seed: of the tasks, which are the same for all seeds of the run.
        tasks: for each seed; None: 600.

    Raises:
        ConfigError: there is no checkpoint, or the images are not what they were.
        RunFailed: all checkpoints are damaged.
    """
    kept = kept_checkpoints(path, config.checkpoint.keep)
    count = tasks or TASKS
    few, settings = config.few_shot, few_shot.make_few_shot_settings(config)
    problem = few_shot.build_tasks(few, config.env.game, config.agent.network)
    learner = few_shot.build_few_shot_learner(config, problem)
    state, progress = restored(kept, learner.initial_state(), None)
    assert state.meta is not None
    known = [
        few_shot.assess_test_tasks(
            settings, problem, of_seed, seed=seed, count=count, steps=max(few.validation_steps)
        )
        for of_seed in _by_seed(state.meta.params, config.seeds)
    ]
    steps = [0, *few.validation_steps]
    results = {
        name: [_result(np.stack([getattr(of, name)[:, n] for of in known]), n) for n in steps]
        for name in known[0]._fields
        if getattr(known[0], name) is not None
    }
    file = path / "evaluation.json"
    content: dict[str, Any] = {
        "tasks": count,
        "seeds": config.seeds,
        "seed": seed,
        "split": "test",
        "frames": progress.frames,
        "learner_updates": progress.updates,
        **results,
    }
    write_json(file, content)
    name = "accuracy" if "accuracy" in results else "query_loss"
    interval = "interval_over_seeds" if config.seeds > 1 else "interval"
    for result in results[name]:
        low, high = result[interval]
        say(
            f"{config.env.game}: {name} {result['mean']:.4f} (95% {low:.4f} to {high:.4f}) after "
            f"{result['steps']} gradient steps"
        )
    over = f"{config.seeds} seeds, " if config.seeds > 1 else ""
    say(f"{over}{count} test tasks, {progress.updates:,} meta-steps; {file}")
    return 0


def _by_seed(params: MetaParams, seeds: int) -> list[MetaParams]:
    import jax

    return [jax.tree.map(lambda x, i=i: x[i], params) for i in range(seeds)]


def _result(values: np.ndarray, steps: int) -> dict[str, Any]:
    """Of [seeds, tasks]: the mean with its 95% intervals over tasks, and over several seeds."""
    of_seeds = values.mean(axis=1)
    over_tasks, over_seeds = mean_interval(values.mean(axis=0)), mean_interval(of_seeds)
    return {
        "steps": steps,
        "mean": float(over_tasks.value),
        "interval": [float(over_tasks.low), float(over_tasks.high)],
        "interval_over_seeds": [float(over_seeds.low), float(over_seeds.high)],
        "of_seeds": of_seeds.tolist(),
    }
