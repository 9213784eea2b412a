"""The algorithms: what impala, stacx and bmg are, and Q(lambda) that learns to explore.

Each is made of an agent's parts (agents/parts.py) and of settings, and is a pure function from a
state and inputs to the next state. What makes the inputs, and on which devices, is not its affair.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.matching import MATCHING, Matching, Weights, l2
from agents.meta_gradient import (
    Distance,
    MakeTarget,
    MetaGradient,
    MetaOutput,
    Update,
    bootstrap_target,
    bootstrapped_meta_gradient,
    length,
    row,
)
from agents.meta_parameters import learned_values
from agents.optimizers import (
    TargetStep,
    constant_step,
    gradient_step,
    make_meta_optimizer,
    own_step,
)
from agents.parts import Parts
from agents.q_learning import explore
from agents.settings import EXACT, PLAIN, Settings
from agents.update import Metrics


class MetaState(NamedTuple):
    """All that a meta-update changes."""

    params: Any
    opt_state: Any


class State(NamedTuple):
    """All that a step changes, and all of it that a checkpoint holds."""

    inner: Any  # as the agent's update takes it
    updates: jax.Array  # int32, how many updates made it
    meta: MetaState | None = None  # None where nothing is learned but the parameters


class MetaLearning(NamedTuple):
    """What a meta-gradient is made of, for whoever checks or measures it."""

    update: Update  # through which it goes
    target: MakeTarget
    distance: Distance
    gradient: MetaGradient


class Algorithm(NamedTuple):
    """What is trained, wherever its inputs come from; pure functions."""

    init: Callable[[jax.Array], State]
    # (state, inputs of the updates that the learner keeps, those of the target alone or None)
    step: Callable[[State, Any, Any], tuple[State, Metrics]]
    online: int = 1  # how many of the former a step takes
    further: int = 0  # how many of the latter
    diagnose: Callable[[State, Any, Any], Metrics] = lambda state, online, further: {}  # is costly
    meta: MetaLearning | None = None


def impala(parts: Parts, settings: Settings) -> Algorithm:
    """One update at fixed hyper-parameters, or at those that another run had learned by then.

    The grid world's `actor_critic` and `q_lambda` are the same with other parts.
    """
    replayed = settings.replayed or (lambda updates: {})

    def step(state: State, online: Any, further: Any) -> tuple[State, Metrics]:
        del further
        inner, metrics = parts.update(state.inner, row(online, 0), replayed(state.updates))
        new = State(inner, state.updates + 1)
        return new, {**metrics, **_described(parts, inner, replayed(new.updates))}

    return Algorithm(lambda key: _first(*parts.init(key)), step)


def bmg(parts: Parts, settings: Settings, through: Update | None = None) -> Algorithm:
    """Bootstrapped meta-gradients: Flennerhag et al. (arXiv 2109.04504).

    K updates are compared with where L further ones lead, the last of them on the plain objective.

    Args:
        parts: of the agent.
        settings: of the agent.
        through: what the meta-gradient goes through in place of the K updates; takes no inputs.
    """
    meta = settings.meta
    weights = Weights(meta.l2_weight, meta.policy_weight, meta.value_weight)
    learning = _meta_learning(
        parts, through or parts.update, _target_step(settings), MATCHING[meta.matching], weights
    )
    optimizer = make_meta_optimizer(
        meta.learning_rate, epsilon=meta.epsilon, max_gradient_norm=meta.max_gradient_norm
    )
    played = 0 if through else meta.inner_steps

    def inputs(online: Any, further: Any) -> tuple[Any, Any]:
        """Of the K updates and of the L to the target, which sees the newest input last."""
        between = jax.tree.map(lambda x: x[played:], online) if further is None else further
        last = jax.tree.map(lambda x: x[-1:], online)
        to_target = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), between, last)
        return jax.tree.map(lambda x: x[: meta.inner_steps], online), to_target

    def step(state: State, online: Any, further: Any) -> tuple[State, Metrics]:
        assert state.meta is not None
        gradient, output = learning.gradient(
            state.meta.params, state.inner, *inputs(online, further)
        )
        learned = meta_step(optimizer, gradient, state.meta)
        if meta.warmup_updates:
            warm = state.updates >= meta.warmup_updates
            learned = jax.tree.map(lambda new, old: jnp.where(warm, new, old), learned, state.meta)
        inner = output.target.bootstrapped if meta.keep_bootstrapped else output.state
        metrics = _of_meta_update(parts, gradient, output, state.meta, learned)
        new = State(inner, state.updates + length(online), learned)
        return new, {**metrics, **_described(parts, inner, learned.params)}

    def diagnose(state: State, online: Any, further: Any) -> Metrics:
        """The cosine between the meta-gradient and the plain one, over all meta-parameters."""
        assert state.meta is not None
        plain = _meta_learning(parts, parts.update, constant_step(1.0), l2, Weights())
        first, to_target = inputs(online, further)
        newest = jax.tree.map(lambda x: x[-1:], to_target)
        a, _ = learning.gradient(state.meta.params, state.inner, first, to_target)
        b, _ = plain.gradient(state.meta.params, state.inner, first, newest)
        return {"meta/cosine": cosine(a, b)}

    extra = meta.bootstrap_steps - 1
    return Algorithm(
        lambda key: _first(*parts.init(key), optimizer),
        step,
        online=played + (extra if meta.keep_bootstrapped else 0),
        further=0 if meta.keep_bootstrapped else extra,
        diagnose=diagnose,
        meta=learning,
    )


def stacx(parts: Parts, settings: Settings) -> Algorithm:
    """Self-tuning actor-critic: Zahavy et al. 2020 (arXiv 2002.12928).

    BMG with L = 1, a plain gradient step as target and the squared distance of parameters. Where
    nothing else is asked for that step has size 1: half the squared distance then has the gradient
    of the outer loss itself.
    """
    meta = settings.meta._replace(**PLAIN)
    rate = meta.target_learning_rate or 1.0
    return bmg(parts, settings._replace(meta=meta._replace(target_learning_rate=rate)))


def mg(parts: Parts, settings: Settings) -> Algorithm:
    """Exactly the gradient of the outer loss: Flennerhag et al., section 5.1."""
    return stacx(parts, settings._replace(meta=settings.meta._replace(**EXACT)))


def exploring(parts: Parts, settings: Settings) -> Algorithm:
    """Q(lambda) whose epsilon is learned by BMG: Flennerhag et al., section 5.1, K = 0.

    What stands in the updates' place only sets epsilon; the target is the greedy policy of values
    that have been updated L - 1 times more.
    """
    return bmg(parts, settings, through=explore(parts.tuned))


ALGORITHMS: dict[str, Callable[[Parts, Settings], Algorithm]] = {
    "impala": impala,
    "stacx": stacx,
    "bmg": bmg,
    "actor_critic": impala,
    "mg": mg,
    "q_lambda": impala,
    "q_lambda_bmg": exploring,
}


def make_algorithm(parts: Parts, settings: Settings) -> Algorithm:
    """The algorithm that the settings name; where another run's schedule is replayed, `impala`."""
    return (ALGORITHMS[settings.algorithm] if settings.replayed is None else impala)(
        parts, settings
    )


def _first(
    inner: Any, meta_params: Any, optimizer: optax.GradientTransformation | None = None
) -> State:
    """The state before the first update."""
    meta = None if optimizer is None else MetaState(meta_params, optimizer.init(meta_params))
    return State(inner, jnp.zeros((), jnp.int32), meta)


def _target_step(settings: Settings) -> TargetStep:
    if settings.meta.target_optimizer == "learner":
        return own_step(settings.optimizer)
    rate = settings.meta.target_learning_rate
    return gradient_step(settings.optimizer) if rate is None else constant_step(rate)


def _meta_learning(
    parts: Parts, update: Update, last: TargetStep, matching: Matching, weights: Weights
) -> MetaLearning:
    last_update, written_out = parts.outer_update(last), parts.written_out
    target = bootstrap_target(parts.update, last_update, written_out=written_out)
    distance = parts.distance(matching, weights)
    gradient = bootstrapped_meta_gradient(
        update, target, distance, recompute=parts.recompute, written_out=written_out
    )
    return MetaLearning(update, target, distance, gradient)


def _described(parts: Parts, inner: Any, meta_params: Any) -> Metrics:
    """The hyper-parameters that are no constants, as the next update sees them."""
    values = learned_values(parts.tuned, parts.tuned.values(meta_params, parts.context(inner)))
    return {f"meta/{name}": value for name, value in values.items()}


def meta_step(
    optimizer: optax.GradientTransformation, gradient: Any, state: MetaState
) -> MetaState:
    """The meta-parameters after a step of their optimiser."""
    changes, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    return MetaState(jax.tree.map(jnp.add, state.params, changes), opt_state)


def cosine(a: Any, b: Any) -> jax.Array:
    """Of the angle between two gradients, over all their parts; 0 where one of them is zero."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)
    norms = optax.tree.norm(a) * optax.tree.norm(b)
    return jnp.where(norms > 0.0, sum(jax.tree.leaves(products)) / norms, 0.0)


def _of_meta_update(
    parts: Parts, gradient: Any, output: MetaOutput, before: MetaState, after: MetaState
) -> Metrics:
    moved = jax.tree.map(jnp.subtract, after.params, before.params)
    goal, final = (parts.learner(s).params for s in (output.target.state, output.state))
    gradients, steps = parts.tuned.by_name(gradient), parts.tuned.by_name(moved)
    return {
        **jax.tree.map(lambda x: x[-1], output.aux),
        "meta/loss": output.loss,
        "meta/gradient_norm": optax.tree.norm(gradient),
        "meta/target_distance": optax.tree.norm(jax.tree.map(jnp.subtract, goal, final)),
        **{f"meta/gradient/{name}": _size(part) for name, part in gradients.items()},
        **{f"meta/step/{name}": jnp.max(jnp.abs(part)) for name, part in steps.items()},
        **parts.report(output),
    }


def is_of_meta_update(name: str) -> bool:
    """Whether a metric describes a meta-update, and no single update."""
    of_one = ("loss", "gradient_norm", "target_distance", "greedy_changes", "cosine")
    known = [f"meta/{name}" for name in of_one]
    return name in known or name.startswith(("meta/gradient/", "meta/step/"))


def _size(x: jax.Array) -> jax.Array:
    """Euclidean norm; of a scalar without a square, which would underflow."""
    return jnp.abs(x) if x.ndim == 0 else optax.tree.norm(x)
