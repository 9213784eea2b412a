"""The algorithms: which update, which target and which matching function make each of them."""

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents import actor_critic, outer_loss
from agents.heads import every_head
from agents.hyperparameters import HYPERPARAMETERS, Hyperparameters
from agents.meta_parameters import (
    Learned,
    MetaParams,
    init_meta_params,
    make_hyperparameters,
    named_values,
)
from agents.networks import Network, NetworkOutput
from agents.trajectory import Trajectory
from configs.load import ConfigError, load
from configs.schema import Config
from learner.matching import MATCHING, Matching, Point, Weights, l2
from learner.meta_gradient import MakeTarget, bootstrap_target
from learner.optimizers import make_optimizer
from learner.step import MetaLearning
from learner.update import InnerState, Metrics, Update, init_inner_state, make_update
from scripts.check import frames_per_update, hyperparameter_range

View = Callable[[Trajectory], Trajectory]


class Algorithm(NamedTuple):
    """What the learner's step is made of."""

    update: Update
    meta: MetaLearning | None = None
    meta_params: MetaParams | None = None  # where learning starts
    schedule: Callable[[jax.Array], MetaParams] = lambda updates: {}
    describe: Callable[[MetaParams], Metrics] = lambda meta_params: {}


def is_meta(config: Config) -> bool:
    """Whether hyper-parameters are learned in this run."""
    return config.agent.algorithm != "impala" and config.hyperparameters_from is None


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
    heads = 1 + config.agent.auxiliary_heads

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
    names = config.meta.learned if is_meta(config) else []
    learned = {name: Learned(*hyperparameter_range(config, name)) for name in names}
    update = inner(make_hyperparameters(fixed_values(config), learned, heads))
    if not learned:
        return Algorithm(update)

    def target(target_optimizer: optax.GradientTransformation | None) -> MakeTarget:
        last = _last_update(config, network, view, optimizer, target_optimizer)
        return bootstrap_target(update, last)

    meta = config.meta
    weights = Weights(meta.l2_weight, meta.policy_weight, meta.value_weight)
    values = make_hyperparameters({}, learned, heads)
    return Algorithm(
        update,
        MetaLearning(
            meta.inner_steps,
            meta.keep_bootstrapped,
            target(_target_optimizer(config)),
            _on_newest_batch(network, view, _matching(config), weights),
            target(make_optimizer("sgd", 1.0)),
            _on_newest_batch(network, view, l2, Weights()),
            make_optimizer(
                "adam",
                meta.learning_rate,
                epsilon=meta.epsilon,
                max_gradient_norm=meta.max_gradient_norm,
            ),
        ),
        init_meta_params(learned, heads),
        describe=lambda meta_params: named_values(values(meta_params)),
    )


def fixed_values(config: Config) -> dict[str, float]:
    """The value of each hyper-parameter where it is not learned."""
    return {name: getattr(config.agent, name, x.default) for name, x in HYPERPARAMETERS.items()}


def outer_values(config: Config) -> dict[str, float]:
    """The value of each hyper-parameter in the outer loss, and in the update that follows it."""
    return {
        name: entry.default
        if entry.outer is None
        else getattr(config.meta.outer, name, entry.outer)
        for name, entry in HYPERPARAMETERS.items()
    }


def _losses(config: Config):
    """`make_targets` and `loss` of the inner update."""
    if config.agent.auxiliary_heads or config.agent.outer_value_head:
        return every_head(outer_values(config))
    return actor_critic.make_targets, actor_critic.loss


def _select(config: Config) -> Callable[[NetworkOutput, Trajectory], Trajectory] | None:
    max_kl = config.replay.max_kl
    if not max_kl:
        return None
    return lambda outputs, batch: actor_critic.within_trust_region(outputs, batch, max_kl)


def _last_update(
    config: Config,
    network: Network,
    view: View,
    optimizer: optax.GradientTransformation,
    target_optimizer: optax.GradientTransformation | None,
) -> Callable[[InnerState, InnerState, Trajectory], InnerState]:
    """The target's last step, on the outer loss."""
    outer, kl_cost = outer_values(config), config.meta.outer.kl_cost

    def last_update(initial: InnerState, state: InnerState, batch: Trajectory) -> InnerState:
        batch = view(batch)
        before = network.apply(initial.params, batch.observation).logits if kl_cost else None
        rule = make_update(
            network,
            outer_loss.make_targets,
            outer_loss.make_loss(kl_cost, before),
            target_optimizer or optimizer,
            lambda meta_params: outer,
            _select(config),
        )
        if target_optimizer is not None:
            state = init_inner_state(state.params, target_optimizer)
        return rule(state, batch, {})[0]

    return last_update


def _target_optimizer(config: Config) -> optax.GradientTransformation | None:
    """Of the target's last step; None: the learner's own, which goes on from its second moments."""
    meta = config.meta
    if meta.target_optimizer == "learner":
        return None
    default = 1.0 if config.agent.algorithm == "stacx" else config.learner.learning_rate
    return make_optimizer("sgd", meta.target_learning_rate or default)


def _matching(config: Config) -> Matching:
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
        points = [
            Point(params, network.apply(params, batch.observation))
            for params in (target.params, learner.params)
        ]
        return matching(points[0], points[1], batch, weights)

    return match


def _schedule(config: Config, heads: int) -> Callable[[jax.Array], MetaParams]:
    """What another run learned, against our updates: linear between its log lines.

    Frames decide what belongs together, so the two runs may have batches of different sizes.
    """
    folder = Path(str(config.hyperparameters_from))
    source = load(str(folder / "config.yaml"))
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    pace = frames_per_update(source) / frames_per_update(config)
    knots = jnp.asarray([line["learner_updates"] * pace for line in lines], jnp.float32)
    curves = {}
    for name in HYPERPARAMETERS:
        keys = [name, *(f"auxiliary_{i}/{name}" for i in range(1, heads))]
        keys = [f"meta/{key}" for key in keys]
        if keys[0] not in lines[-1]:
            continue
        per_head = HYPERPARAMETERS[name].per_head and heads > 1
        missing = [key for key in keys if key not in lines[-1]]
        if per_head and missing:
            raise ConfigError(
                f"hyperparameters_from={folder}: that run has no {missing[0]}; set "
                f"agent.auxiliary_heads={source.agent.auxiliary_heads}, as it has"
            )
        keys = keys if per_head else keys[:1]
        curves[name] = [jnp.asarray([line[key] for line in lines]) for key in keys]
    if not curves:
        raise ConfigError(
            f"hyperparameters_from={folder}: that run has learned no hyper-parameter; give one of "
            "agent.algorithm=stacx or bmg"
        )

    def schedule(updates: jax.Array) -> MetaParams:
        now = {name: [jnp.interp(updates, knots, c) for c in cs] for name, cs in curves.items()}
        return {name: jnp.stack(v) if len(v) > 1 else v[0] for name, v in now.items()}

    return schedule
