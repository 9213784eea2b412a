"""`bmg bench` where actors play: the stages of a run, and the whole."""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from actors.environments.suites import make_environment
from actors.environments.vector import EnvironmentFailed, playing
from actors.seeding import environment_seeds
from actors.server import ServerSpec, UnrollServer
from agents.trajectory import SourceFailed
from configs.schema import Config, EnvironmentConfig
from learner.loop import Events, LearningDiverged, LoopSettings, Progress
from learner.loop import run as run_loop
from scripts import build, jax_environment, memory, runtime
from scripts.bench.budget import Stage, chosen
from scripts.bench.learner import STAGE_SECONDS, algorithms, learning, variants
from scripts.bench.machine import machine, rate
from scripts.build import Agent
from scripts.check import RunFailed, environment_spec
from scripts.ray_start import connect, disconnect

_WARM_UP_SECONDS = 10.0  # of the whole system: actors fill up, caches settle
_SAMPLE_SECONDS = 2.0
_SHORTEST, _LONGEST = 6, 20  # seconds of the whole within a budget
_FOREVER = 2**62  # frames


def bench_checked(config: Config, source: str, overrides: list[str], seconds: int) -> int:
    """Measures, as `scripts.bench.bench` says, a configuration that was checked."""
    of_algorithms = variants(source, overrides, is_bmg=config.agent.algorithm == "bmg")
    runtime.prepare_jax(config.learner.gpu_memory)
    jax_environment.require_device()
    probe = build.probe_environment(config.env, config.seed)
    agent = build.build_agent(config, probe)
    memory.check_memory(config, probe, agent.network)
    stages = {
        "environment": _environment(config.env, config.actors.envs_per_actor, config.seed),
        "environment_and_policy": _acting(build.server_spec(config), agent),
    }
    learned = learning(config, agent)
    stages["learner_step"] = learned["steps_per_second"]
    compared = algorithms(of_algorithms)
    # The learner's step donated the first state.
    agent = build.build_agent(config, probe)
    whole, sizes = _whole(config, agent, seconds)
    bound = 1.0 / (1.0 / stages["environment_and_policy"] + 1.0 / stages["learner_step"])
    result = {
        "config": source,
        "overrides": overrides,
        "game": config.env.game,
        "network": config.agent.network,
        "unroll_length": config.learner.unroll_length,
        "batch_size": config.learner.batch_size,
        "actors": f"{config.actors.count} x {config.actors.envs_per_actor} environments",
        "runtime": f"{config.actors.runtime}, {config.actors.mode}",
        **machine(),
        "steps_per_second": {name: round(rate) for name, rate in stages.items()}
        | {"serial_bound": round(bound), "whole": round(whole["steps_per_second"])},
        "frames_per_second": round(whole["steps_per_second"] * config.env.frame_skip),
        "learner_floor": learned["floor"],
        "algorithms": compared,
        "whole": whole,
        "memory": sizes,
    }
    print(json.dumps(result, indent=2))
    return 0


def stages(config: Config, source: str, overrides: list[str], wanted: list[str]) -> list[Stage]:
    """What `bench_checked` measures, one by one and the most important first.

    Args:
        config: that was checked.
        source: of it.
        overrides: of its keys.
        wanted: names; none: all stages.

    Raises:
        ConfigError: there is no stage of a name, or what is measured cannot be built.
    """
    runtime.prepare_jax(config.learner.gpu_memory)
    jax_environment.require_device()
    probe = build.probe_environment(config.env, config.seed)
    agent = partial(build.build_agent, config, probe)  # anew, as steps donate the first state
    of_algorithms = variants(source, overrides, is_bmg=config.agent.algorithm == "bmg")

    def stage(name: str, measure: Callable[[], float | dict[str, Any]]) -> Stage:
        def measured(left: float) -> dict[str, Any]:
            del left
            found = measure()
            results = found if isinstance(found, dict) else {"steps_per_second": found}
            rate = round(results["steps_per_second"])
            return {**results, "steps_per_second": rate, "seconds_measured": STAGE_SECONDS}

        return Stage(name, STAGE_SECONDS, measured)

    def whole(left: float) -> dict[str, Any]:
        seconds = min(_LONGEST, int(left - _WARM_UP_SECONDS))
        run, sizes = _whole(config, agent(), seconds)
        sizes.pop("samples")
        return {**run, "memory": sizes, "seconds_measured": seconds + _WARM_UP_SECONDS}

    def of_variant(variant: Config) -> dict[str, Any]:
        return learning(variant, build.build_agent(variant, probe))

    envs, spec = config.actors.envs_per_actor, build.server_spec(config)
    every = [
        stage("learner_step", lambda: learning(config, agent())),
        Stage("whole", _WARM_UP_SECONDS + _SHORTEST, whole),
        stage("environment_and_policy", lambda: _acting(spec, agent())),
        stage("environment", lambda: _environment(config.env, envs, config.seed)),
        *(
            stage(f"learner_step of {name}", partial(of_variant, variant))
            for name, variant in of_algorithms.items()
        ),
    ]
    found = chosen(every, wanted)
    memory.check_memory(config, probe, agent().network)
    return found


def _environment(env: EnvironmentConfig, envs: int, seed: int) -> float:
    environment = make_environment(environment_spec(env), envs, os.cpu_count() or 1)
    random = np.random.default_rng(seed)

    def work() -> int:
        for _ in range(20):
            environment.step(random.integers(environment.num_actions, size=envs, dtype=np.int32))
        return 20 * envs

    try:
        with playing():
            environment.reset(environment_seeds(seed, 0, envs))
            work()  # warms up
            return rate(work, STAGE_SECONDS)
    except EnvironmentFailed as error:
        raise RunFailed(f"{env.game}: {error}") from error
    finally:
        environment.close()


def _acting(spec: ServerSpec, agent: Agent) -> float:
    server = UnrollServer(spec._replace(threads=os.cpu_count() or 1), 0)
    params = agent.initial_state.inner.params

    def work() -> int:
        return server.unroll(params, 0).steps

    work()  # compiles
    acting = rate(work, STAGE_SECONDS)
    server.close()
    return acting


def _whole(config: Config, agent: Agent, seconds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains without a run folder and measures after the warm-up."""
    stopped, actors = runtime.StopSignals(), config.actors
    length = config.learner.unroll_length
    connect(actors, build.unroll_bytes(agent.probe, length, actors.envs_per_actor))
    source, _, learner = build.start_playing(config, agent, 0)
    samples: list[dict[str, Any]] = []
    memory: list[tuple[float, float]] = []
    start = time.monotonic()

    def on_metrics(metrics: dict[str, Any]) -> None:
        now = time.monotonic() - start
        samples.append({**metrics, "at": now})
        memory.append((round(now, 1), round(runtime.memory_mb(), 1)))
        print(f"{now:6.1f} s  {metrics['frames_per_second']:,.0f} frames/s", file=sys.stderr)

    def stop() -> bool:
        began = samples[0]["at"] if samples else float("inf")
        return stopped() or time.monotonic() - start > began + _WARM_UP_SECONDS + seconds

    try:
        run_loop(
            learner,
            agent.initial_state,
            Progress(),
            LoopSettings(_FOREVER, _SAMPLE_SECONDS, float("inf")),
            stop,
            Events(on_metrics),
        )
    except (SourceFailed, LearningDiverged) as error:
        raise RunFailed(str(error)) from error
    finally:
        source.close()
        disconnect(actors)
    if stopped.received is not None:
        raise SystemExit(128 + stopped.received)
    warm = [s for s in samples if s["at"] >= samples[0]["at"] + _WARM_UP_SECONDS]
    first, last = warm[0], warm[-1]
    elapsed = last["at"] - first["at"]
    lags = [s["policy_lag"] for s in warm if s["policy_lag"] is not None]
    whole = {
        "seconds": round(elapsed, 1),
        "steps_per_second": (last["env_steps"] - first["env_steps"]) / elapsed,
        "updates_per_second": (last["learner_updates"] - first["learner_updates"]) / elapsed,
        "policy_lag": sum(lags) / max(1, len(lags)),
        "seconds_to_first_metrics": round(samples[0]["at"], 1),
        "actors/restarts": last["actors/restarts"],
        "actors/dropped": last["actors/dropped"],
    }
    return whole, _memory_summary(memory)


def _memory_summary(samples: list[tuple[float, float]]) -> dict[str, Any]:
    """Memory of all processes in MiB: early, late, and the growth between."""
    horizon = samples[-1][0]
    early_after = 120.0 if horizon >= 240.0 else horizon / 3
    early = next(mb for at, mb in samples if at >= early_after)
    return {
        "unit": "MiB, all processes of the run, shared pages once",
        "from_second": round(early_after),
        "to_second": round(horizon),
        "then": early,
        "last": samples[-1][1],
        "growth": round(samples[-1][1] - early, 1),
        "peak": max(mb for _, mb in samples),
        "samples": samples[:: max(1, len(samples) // 30)],
    }
