"""`bmg bench`: throughput of each stage and of the whole, as JSON."""

import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from configs.load import load
from configs.schema import Config
from scripts import jax_environment, plugins
from scripts.check import RunFailed, check, environment_spec

_STAGE_SECONDS = 6.0
_ROUNDS = 15  # in which the algorithms' programs take turns
_WARM_UP_SECONDS = 10.0  # of the whole system: actors fill up, caches settle
_SAMPLE_SECONDS = 2.0
_FOREVER = 2**62  # frames


def bench(source: str, overrides: list[str], seconds: int) -> int:
    """Measures environments, acting, learning and the whole system, one after the other.

    Each stage alone may use all cores, so the serial bound, 1 / (1 / acting + 1 / learning), is
    what the whole would reach if nothing were lost and nothing ran better side by side.

    Args:
        source: configuration.
        overrides: of its keys.
        seconds: for which the whole system runs, after its warm-up.

    Raises:
        ConfigError: nothing was started.
        RunFailed: the whole system failed, with its reason.
    """
    config = load(source, overrides, plugins.import_all)
    check(config)
    jax_environment.require_jax()
    if config.runs_on_device:
        from scripts import bench_on_device

        return bench_on_device.bench(source, overrides, seconds)
    variants = _variants(config, source, overrides)

    from scripts import build, memory, runtime

    runtime.use_compilation_cache()
    jax_environment.require_device()
    probe = build.probe_environment(config)
    memory.check_memory(config, probe)
    agent = build.build_agent(config, probe)
    stages = {
        "environment": _environment(config),
        "environment_and_policy": _acting(config, agent),
        "learner_step": _learning(config, agent),
    }
    acting, learning = stages["environment_and_policy"], stages["learner_step"]
    algorithms = _algorithms(variants)
    # The learner's step donated the first state.
    agent = build.build_agent(config, probe)
    whole, memory = _whole(config, agent, seconds)
    bound = 1.0 / (1.0 / acting + 1.0 / learning)
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
        "algorithms": algorithms,
        "whole": whole,
        "memory": memory,
    }
    print(json.dumps(result, indent=2))
    return 0


def machine() -> dict[str, Any]:
    """Where and when something was measured."""
    import jax

    return {
        "machine": {
            "cpus": os.cpu_count(),
            "processor": _processor(),
            "devices": [str(device) for device in jax.local_devices()],
            "python": platform.python_version(),
            "jax": jax.__version__,
        },
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def _rate(work: Callable[[], int]) -> float:
    """Steps per second of `work`, which returns how many it did; the first call warms up."""
    work()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < _STAGE_SECONDS:
        done += work()
    return done / (time.perf_counter() - start)


def _environment(config: Config) -> float:
    import numpy as np

    from actors.environments.suites import make_environment
    from actors.environments.vector import EnvironmentFailed, playing
    from actors.seeding import environment_seeds

    envs = config.actors.envs_per_actor
    environment = make_environment(environment_spec(config.env), envs, os.cpu_count() or 1)
    random = np.random.default_rng(config.seed)

    def work() -> int:
        for _ in range(20):
            environment.step(random.integers(environment.num_actions, size=envs, dtype=np.int32))
        return 20 * envs

    try:
        with playing():
            environment.reset(environment_seeds(config.seed, 0, envs))
            return _rate(work)
    except EnvironmentFailed as error:
        raise RunFailed(f"{config.env.game}: {error}") from error
    finally:
        environment.close()


def _acting(config: Config, agent: Any) -> float:
    from actors.server import UnrollServer
    from scripts import build

    spec = build.server_spec(config)._replace(threads=os.cpu_count() or 1)
    server = UnrollServer(spec, 0)
    params = agent.initial_state.inner.params
    rate = _rate(lambda: server.unroll(params, 0).steps)
    server.close()
    return rate


def _experience(config: Config, agent: Any) -> Any:
    """What one learner step takes, of real unrolls, on the learner's devices."""
    from actors.server import UnrollServer
    from learner.experience import prepare
    from scripts import build

    composition, replay = build.composition(config), build.build_replay(config, 0)
    server = UnrollServer(build.server_spec(config, num_envs=config.new_unrolls), 0)
    params = agent.initial_state.inner.params
    unrolls = [server.unroll(params, 0) for _ in range(composition.online_batches)]
    server.close()
    return agent.learner.place_batch(prepare(unrolls, composition, replay))


def _learning(config: Config, agent: Any) -> float:
    import jax

    experience = _experience(config, agent)
    batches = experience.online.action.shape[0]
    step = _repeated_step(agent, experience)

    def work() -> int:
        jax.block_until_ready(step())
        return batches * config.new_unrolls * config.learner.unroll_length

    return _rate(work)


_STACX = ("meta.bootstrap_steps=1", "meta.matching=l2", "meta.target_optimizer=sgd")
_VARIANTS = {
    "impala": ["agent.algorithm=impala"],
    "stacx": ["agent.algorithm=stacx", *_STACX],
    "bmg L=1": ["agent.algorithm=bmg", "meta.bootstrap_steps=1"],
    "bmg L=2": ["agent.algorithm=bmg", "meta.bootstrap_steps=2"],
    "bmg L=4": ["agent.algorithm=bmg", "meta.bootstrap_steps=4"],
}


def _variants(config: Config, source: str, overrides: list[str]) -> dict[str, Config]:
    """The configuration with each algorithm, one update a step."""
    base = [*overrides, "meta.inner_steps=1", "meta.keep_bootstrapped=false"]
    base.append("hyperparameters_from=")
    if config.agent.algorithm != "bmg":  # else BMG has a matching function and a target already
        base += ["meta.matching=kl_value", "meta.target_optimizer=learner"]
    variants = {name: load(source, [*base, *changes]) for name, changes in _VARIANTS.items()}
    for variant in variants.values():
        check(variant)
    return variants


def _algorithms(variants: dict[str, Config]) -> dict[str, Any]:
    """Time of one learner step of each algorithm, and of the parts that BMG is made of.

    All programs take turns, so that a machine that slows down slows down all of them; times are
    medians. The sum of the parts is what BMG would take if each ran as a program of its own.
    """
    import jax

    from scripts import build

    programs: dict[str, Callable[[], Any]] = {}
    for name, config in variants.items():
        agent = build.build_agent(config, build.probe_environment(config))
        experience = _experience(config, agent)
        programs[name] = _repeated_step(agent, experience)
        if name == "bmg L=1":
            programs |= _parts(agent, experience)
    times: dict[str, list[float]] = {name: [] for name in programs}
    for work in programs.values():  # compile
        jax.block_until_ready(work())
    for _ in range(_ROUNDS):
        for name, work in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(work())
            times[name].append(1e3 * (time.perf_counter() - start))
    ms = {name: statistics.median(values) for name, values in times.items()}
    result: dict[str, Any] = {}
    for name in _VARIANTS:
        steps = int(name[-1]) if "=" in name else 1
        evaluations = {"updates": 1}
        if name != "impala":
            evaluations |= {"bootstrap steps": steps, "back through the updates": 1}
        if name.startswith("bmg"):
            evaluations |= {"matching function": 1}
        result[name] = {
            "milliseconds": round(ms[name], 1),
            "of_impala": round(ms[name] / ms["impala"], 2),
            "gradient_evaluations": evaluations,
        }
        if name.startswith("bmg"):
            parts = (
                steps * ms["update"]
                + ms["last bootstrap step"]
                + ms["matching function"]
                + (ms["update and back"] - ms["update"])
            )
            result[name]["sum_of_parts_milliseconds"] = round(parts, 1)
            result[name]["of_sum_of_parts"] = round(ms[name] / parts, 2)
    parts_ms = {name: round(ms[name], 1) for name in programs if name not in _VARIANTS}
    return {"rounds": _ROUNDS, **result, "parts_milliseconds": parts_ms}


def _repeated_step(agent: Any, experience: Any) -> Callable[[], Any]:
    state = agent.learner.place_state(agent.initial_state)

    def work() -> Any:
        nonlocal state
        state, metrics = agent.learner.step(state, experience)
        return metrics

    return work


def _parts(agent: Any, experience: Any) -> dict[str, Callable[[], Any]]:
    """The parts of a BMG step with K = 1, each as a program of its own."""
    import jax
    import jax.numpy as jnp

    meta = agent.algorithm.meta
    inner, weights = agent.initial_state.inner, agent.initial_state.meta.params
    inner = jax.tree.map(jnp.copy, inner)  # the steps donate theirs
    weights = jax.tree.map(jnp.copy, weights)
    online = experience.online
    batch = jax.tree.map(lambda x: x[0], online)
    last = jax.jit(lambda s, x, w: meta.target(s, s, x, w).state)
    goal = last(inner, online, weights)

    def along(w: Any, state: Any, batch: Any, direction: Any) -> Any:
        """The learner's parameters after an update, in the direction of a gradient."""
        moved, _ = meta.update(state, batch, w)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), moved.params, direction)
        return sum(jax.tree.leaves(products)), moved

    def distance(params: Any, state: Any, goal: Any, online: Any) -> Any:
        return meta.distance(goal, state._replace(params=params), online)

    step = jax.jit(meta.update)
    back = jax.jit(jax.grad(along, has_aux=True))
    match = jax.jit(jax.value_and_grad(distance))
    return {
        "update": lambda: step(inner, batch, weights),
        "last bootstrap step": lambda: last(inner, online, weights),
        "matching function": lambda: match(inner.params, inner, goal, online),
        "update and back": lambda: back(weights, inner, batch, goal.params),
    }


def _whole(config: Config, agent: Any, seconds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains without a run folder and measures after the warm-up."""
    from agents.trajectory import SourceFailed
    from learner.loop import Events, LearningDiverged, LoopSettings, Progress
    from learner.loop import run as run_loop
    from scripts import build, runtime
    from scripts.ray_start import connect, disconnect

    stopped = runtime.StopSignals()
    connect(config, agent.probe)
    source = build.build_source(config, agent.probe, 0)
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
            build.build_runtime(config, agent.learner, source, build.build_replay(config, 0)),
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
        disconnect(config)
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
