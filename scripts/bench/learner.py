"""`bmg bench` of the learner's step: the algorithms in turn, and the parts of one."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from actors.server import UnrollServer
from configs.load import load
from configs.schema import Config
from learner.experience import prepare
from learner.replay import Replay
from learner.step import Experience
from scripts import build
from scripts.bench.machine import matrix_product, rate
from scripts.build import Agent
from scripts.check import check

STAGE_SECONDS = 6.0  # for which a stage is measured
_TURNS = 6  # of the learner's step and a product of matrices
_ROUNDS = 15  # in which the algorithms' programs take turns


def _experience(config: Config, agent: Agent) -> Experience:
    """What one learner step takes, of real unrolls, on the learner's devices."""
    composition = build.composition(config)
    replay = Replay(config.replay.max_bytes, (config.seed, 0)) if composition.needs_replay else None
    server = UnrollServer(build.server_spec(config, num_envs=config.new_unrolls), 0)
    params = agent.initial_state.inner.params
    unrolls = [server.unroll(params, 0) for _ in range(composition.online_batches)]
    server.close()
    return agent.learner.place_batch(prepare(unrolls, composition, replay))


def learning(config: Config, agent: Agent) -> dict[str, Any]:
    """How fast the learner's step is, and how fast it could be.

    Returns:
        `steps_per_second`, in environment steps, as measured; `floor`: the operations of a step,
        those a second of products of large matrices, measured in turn with it, the environment
        steps a second that this allows, and the share of them that was reached.
    """
    experience = _experience(config, agent)
    steps = experience.online.action.shape[0] * config.new_unrolls * config.learner.unroll_length
    product, of_product = matrix_product()
    programs = {"step": _repeated_step(agent, experience), "product": product}
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for work in programs.values():  # compile
        jax.block_until_ready(work())
    for _ in range(_TURNS):
        for name, work in programs.items():
            rates[name].append(rate(functools.partial(_once, work), STAGE_SECONDS / _TURNS / 2))
    step_rate, product_rate = (statistics.median(rates[name]) for name in programs)
    operations = _operations(agent, experience)
    bound = product_rate * of_product / operations  # learner steps a second
    return {
        "steps_per_second": steps * step_rate,
        "floor": {
            "gflop_per_learner_step": round(operations / 1e9, 3),
            "matrix_gflop_per_second": round(product_rate * of_product / 1e9, 1),
            "steps_per_second": round(steps * bound),
            "share_reached": round(step_rate / bound, 3),
        },
    }


def _once(work: Callable[[], Any]) -> int:
    jax.block_until_ready(work())
    return 1


def _operations(agent: Agent, experience: Experience) -> float:
    """Of numbers, in a step of the learner: as XLA counts them in the program it has compiled."""
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (agent.initial_state, experience)
    )
    step: Any = agent.learner.step  # what jax.jit returns
    return step.lower(*shapes).compile().cost_analysis()["flops"]


_STACX = ("meta.bootstrap_steps=1", "meta.matching=l2", "meta.target_optimizer=sgd")


_VARIANTS = {
    "impala": ["agent.algorithm=impala"],
    "stacx": ["agent.algorithm=stacx", *_STACX],
    "bmg L=1": ["agent.algorithm=bmg", "meta.bootstrap_steps=1"],
    "bmg L=2": ["agent.algorithm=bmg", "meta.bootstrap_steps=2"],
    "bmg L=4": ["agent.algorithm=bmg", "meta.bootstrap_steps=4"],
}


def variants(source: str, overrides: list[str], *, is_bmg: bool) -> dict[str, Config]:
    """The configuration with each algorithm, one update a step.

    Args:
        source: of it.
        overrides: of its keys.
        is_bmg: whether it has a matching function and a target already.
    """
    base = [*overrides, "meta.inner_steps=1", "meta.keep_bootstrapped=false"]
    base.append("hyperparameters_from=")
    if not is_bmg:
        base += ["meta.matching=kl_value", "meta.target_optimizer=learner"]
    variants = {name: load(source, [*base, *changes]) for name, changes in _VARIANTS.items()}
    for variant in variants.values():
        check(variant)
    return variants


def algorithms(variants: dict[str, Config]) -> dict[str, Any]:
    """Time of one learner step of each algorithm, and of the parts that BMG is made of.

    All programs take turns, so that a machine that slows down slows down all of them; times are
    medians. The sum of the parts is what BMG would take if each ran as a program of its own; the
    floor, what a step would take if all of its operations ran as fast as a product of matrices.
    """
    programs: dict[str, Callable[[], Any]] = {}
    programs["matrix product"], of_product = matrix_product()
    operations: dict[str, float] = {}
    for name, config in variants.items():
        agent = build.build_agent(config, build.probe_environment(config.env, config.seed))
        experience = _experience(config, agent)
        programs[name] = _repeated_step(agent, experience)
        operations[name] = _operations(agent, experience)
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
            "floor_milliseconds": round(ms["matrix product"] * operations[name] / of_product, 1),
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


def _repeated_step(agent: Agent, experience: Experience) -> Callable[[], Any]:
    state = agent.learner.place_state(agent.initial_state)

    def work() -> Any:
        nonlocal state
        state, metrics = agent.learner.step(state, experience)
        return metrics

    return work


def _parts(agent: Agent, experience: Experience) -> dict[str, Callable[[], Any]]:
    """The parts of a BMG step with K = 1, each as a program of its own."""
    meta, learned = agent.algorithm.meta, agent.initial_state.meta
    assert meta is not None
    assert learned is not None
    inner, weights = agent.initial_state.inner, learned.params
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
