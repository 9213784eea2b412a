"""The algorithms: which update, which target and which matching function make each of them."""

import difflib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents import actor_critic, outer_loss
from agents.actor_critic import Loss
from agents.heads import every_head
from agents.hyperparameters import HYPERPARAMETERS, Hyperparameters
from agents.matching import MATCHING, Matching, Weights, compare, l2
from agents.meta_gradient import MakeTarget, bootstrap_target
from agents.meta_parameters import (
    Learned,
    MetaParams,
    init_meta_params,
    make_hyperparameters,
    named_values,
)
from agents.networks import Network, NetworkOutput
from agents.optimizers import (
    OptimizerName,
    make_meta_optimizer,
    make_optimizer,
    without_second_moments,
)
from agents.trajectory import Trajectory
from agents.update import InnerState, Metrics, Update, make_update
from configs.load import ConfigError, load
from configs.schema import Config
from learner.reading import read_metrics
from learner.step import MetaLearning
from scripts.check import (
    frames_per_update,
    hyperparameter_range,
    learns,
    schedule_frames,
    updates_of,
)

_log = logging.getLogger(__name__)
View = Callable[[Trajectory], Trajectory]


class Algorithm(NamedTuple):
    """What the learner's step is made of."""

    update: Update
    meta: MetaLearning | None = None
    meta_params: MetaParams | None = None  # where learning starts
    schedule: Callable[[jax.Array], MetaParams] = lambda updates: {}
    describe: Callable[[MetaParams], Metrics] = lambda meta_params: {}


def inner_optimizer(
    config: Config, name: OptimizerName | None = None
) -> optax.GradientTransformation:
    """The learner's optimiser, or another one with its learning rate and clipping."""
    learner = config.learner
    rate: optax.ScalarOrSchedule = learner.learning_rate
    if learner.learning_rate_schedule == "linear":
        updates = updates_of(config, schedule_frames(config))
        rate = optax.linear_schedule(learner.learning_rate, 0.0, updates)
    return make_optimizer(
        name or learner.optimizer,
        rate,
        decay=learner.decay,
        epsilon=learner.epsilon,
        epsilon_placement=learner.epsilon_placement,
        max_gradient_norm=learner.max_gradient_norm,
        gradient_decay=learner.gradient_decay,
        adam_beta1=learner.adam_beta1,
    )


def build_algorithm(
    config: Config, network: Network, optimizer: optax.GradientTransformation, view: View
) -> Algorithm:
    """The algorithm that a configuration asks for.

    Args:
        config: of the run.
        network: policy, value and further heads.
        optimizer: of the inner update.
        view: what the losses see of a trajectory as it was sent.

    Raises:
        ConfigError: it cannot be built as asked.
    """
    heads, matching = 1 + config.agent.auxiliary_heads, matching_function(config)

    def inner(hyperparameters: Callable[[MetaParams], Hyperparameters]) -> Update:
        losses = _losses(config)
        update = make_update(network, *losses, optimizer, hyperparameters, _select(config))
        return lambda state, batch, meta_params: update(state, view(batch), meta_params)

    if config.hyperparameters_from is not None:
        fixed = make_hyperparameters(fixed_values(config), {}, heads)({})
        return Algorithm(
            inner(lambda values: {**fixed, **values}),
            schedule=_schedule(config, heads),
            describe=named_values,
        )
    names = config.meta.learned if learns(config) else []
    learned = {name: Learned(*hyperparameter_range(config, name)) for name in names}
    update = inner(make_hyperparameters(fixed_values(config), learned, heads))
    if not learned:
        return Algorithm(update)

    def target(step: LastStep) -> MakeTarget:
        return bootstrap_target(update, _last_update(config, network, view, step))

    meta = config.meta
    weights = matching_weights(config)
    values = make_hyperparameters({}, learned, heads)
    return Algorithm(
        update,
        MetaLearning(
            meta.inner_steps,
            meta.keep_bootstrapped,
            target(last_step(config, optimizer)),
            _on_newest_batch(network, view, matching, weights),
            meta_optimizer(config),
            (target(_plain_step(1.0)), _on_newest_batch(network, view, l2, Weights())),
            meta.warmup_updates,
        ),
        init_meta_params(learned, heads),
        describe=lambda meta_params: named_values(values(meta_params)),
    )


def meta_optimizer(config: Config) -> optax.GradientTransformation:
    """Of the meta-parameters."""
    meta = config.meta
    return make_meta_optimizer(
        meta.learning_rate, epsilon=meta.epsilon, max_gradient_norm=meta.max_gradient_norm
    )


def matching_weights(config: Config) -> Weights:
    """Of the terms of the matching functions."""
    meta = config.meta
    return Weights(meta.l2_weight, meta.policy_weight, meta.value_weight)


def fixed_values(config: Config) -> dict[str, float]:
    """The value of each hyper-parameter where it is not learned."""
    return {name: getattr(config.agent, name, x.default) for name, x in HYPERPARAMETERS.items()}


def outer_values(config: Config) -> dict[str, float]:
    """The value of each hyper-parameter in the outer loss and in the update that follows it.

    One that is no part of the plain objective has its fixed value there.
    """
    outer = {
        name: getattr(config.meta.outer, name, entry.outer)
        for name, entry in HYPERPARAMETERS.items()
        if entry.outer is not None
    }
    return {**fixed_values(config), **outer}


def _losses(config: Config):
    """`make_targets` and `loss` of the inner update."""
    if config.agent.auxiliary_heads or config.agent.outer_value_head:
        make_targets, loss = every_head(outer_values(config))
        return make_targets, reduced(config, loss)
    return actor_critic.make_targets, reduced(config, actor_critic.loss)


def reduced(config: Config, loss: Loss) -> Loss:
    """A summed loss, or its mean, as `learner.loss` wants it."""
    return actor_critic.averaged(loss) if config.learner.loss == "mean" else loss


def _select(config: Config) -> Callable[[NetworkOutput, Trajectory], Trajectory] | None:
    max_kl = config.replay.max_kl
    if not max_kl:
        return None
    return lambda outputs, batch: actor_critic.within_trust_region(outputs, batch, max_kl)


class LastStep(NamedTuple):
    """How the target takes its last step."""

    optimizer: optax.GradientTransformation
    state: Callable[[InnerState], Any]  # the optimiser's, made of the learner's state


def _learners_own(optimizer: optax.GradientTransformation) -> LastStep:
    return LastStep(optimizer, lambda learner: learner.opt_state)


def _plain_step(learning_rate: float) -> LastStep:
    sgd = make_optimizer("sgd", learning_rate)
    return LastStep(sgd, lambda learner: sgd.init(learner.params))


def last_step(config: Config, optimizer: optax.GradientTransformation) -> LastStep:
    """The last step that `meta.target_optimizer` asks for; `optimizer` is the learner's."""
    meta = config.meta
    if meta.target_optimizer == "learner":
        return _learners_own(optimizer)
    if meta.target_learning_rate is not None:
        return _plain_step(meta.target_learning_rate)
    if config.agent.algorithm in ("stacx", "mg"):
        return _plain_step(1.0)
    sgd = inner_optimizer(config, "sgd")
    return LastStep(sgd, lambda learner: without_second_moments(learner.opt_state))


def _last_update(
    config: Config, network: Network, view: View, step: LastStep
) -> Callable[[InnerState, InnerState, Trajectory], InnerState]:
    """The target's last step, on the outer loss."""
    outer, kl_cost = outer_values(config), config.meta.outer.kl_cost

    def last_update(initial: InnerState, state: InnerState, batch: Trajectory) -> InnerState:
        batch = view(batch)
        before = network.apply(initial.params, batch.observation).logits if kl_cost else None
        rule = make_update(
            network,
            outer_loss.make_targets,
            reduced(config, outer_loss.make_loss(kl_cost, before)),
            step.optimizer,
            lambda meta_params: outer,
            _select(config),
        )
        return rule(InnerState(state.params, step.state(state)), batch, {})[0]

    return last_update


def matching_function(config: Config) -> Matching:
    """The one that `meta.matching` names.

    Raises:
        ConfigError: there is none of that name.
    """
    name = config.meta.matching
    if name not in MATCHING:
        close = difflib.get_close_matches(name, MATCHING, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"meta.matching={name}: must be one of {', '.join(MATCHING)}{hint}")
    return MATCHING[name]


def _on_newest_batch(
    network: Network, view: View, matching: Matching, weights: Weights
) -> Callable[[InnerState, InnerState, Trajectory], jax.Array]:
    """A matching function at the states of the last bootstrap step."""

    def match(target: InnerState, learner: InnerState, inputs: Trajectory) -> jax.Array:
        batch = view(jax.tree.map(lambda x: x[-1], inputs))
        return compare(network, matching, weights, target.params, learner.params, batch)

    return match


def _schedule(config: Config, heads: int) -> Callable[[jax.Array], MetaParams]:
    """What another run learned, against our updates: linear between its log lines.

    Frames decide what belongs together, so the two runs may have batches of different sizes.
    """
    folder = Path(str(config.hyperparameters_from))
    source = load(str(folder / "config.yaml"))
    names = [name for name in source.meta.learned if name in HYPERPARAMETERS]
    keys = {name: [f"meta/{name}"] for name in names if learns(source)}
    for name in keys:
        if HYPERPARAMETERS[name].per_head:
            keys[name] += [f"meta/auxiliary_{i}/{name}" for i in range(1, heads)]
    if keys and heads != 1 + source.agent.auxiliary_heads:
        raise ConfigError(
            f"agent.auxiliary_heads={heads - 1}: the run in hyperparameters_from={folder} has "
            f"{source.agent.auxiliary_heads}, each with its own hyper-parameters; set the same"
        )
    wanted = ["learner_updates", *(key for of_name in keys.values() for key in of_name)]
    every, faults = read_metrics(folder)
    for fault in faults:
        _log.warning("hyperparameters_from: %s: left out", fault)
    lines = [line for line in every if all(line.get(key) is not None for key in wanted)]
    if not keys or not lines:
        raise ConfigError(
            f"hyperparameters_from={folder}: that run has learned no hyper-parameter, or not yet; "
            "give one of agent.algorithm=stacx or bmg"
        )
    pace = frames_per_update(source) / frames_per_update(config)
    knots = jnp.asarray([0.0, *(line["learner_updates"] * pace for line in lines)], jnp.float32)
    learned = {name: Learned(*hyperparameter_range(source, name)) for name in keys}
    start = make_hyperparameters({}, learned, 1)(init_meta_params(learned, 1))
    curves = {
        name: [jnp.asarray([float(start[name]), *(x[key] for x in lines)]) for key in of_name]
        for name, of_name in keys.items()
    }

    def schedule(updates: jax.Array) -> MetaParams:
        now = {name: [jnp.interp(updates, knots, c) for c in cs] for name, cs in curves.items()}
        return {name: jnp.stack(v) if len(v) > 1 else v[0] for name, v in now.items()}

    return schedule
