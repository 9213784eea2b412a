"""What an algorithm is told: plain values, made once from a configuration (scripts/settings.py).

No jax in here: what `stacx`, `mg` and `maml` mean is also what a configuration of theirs says, and
that is checked before jax is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from agents.hyperparameters import Learned

if TYPE_CHECKING:
    import jax
    import optax

    from agents.networks import Heads

# What makes the bootstrapped meta-gradient a plain one: L = 1, a gradient step as target, and the
# squared distance of parameters.
PLAIN: dict[str, Any] = {"bootstrap_steps": 1, "matching": "l2", "target_optimizer": "sgd"}
# With half the squared distance and a step of size 1 it is the gradient of the outer loss itself.
EXACT: dict[str, Any] = {"target_learning_rate": None, "l2_weight": 0.5}
# The values of `meta` that define an algorithm, whatever else is asked for.
MEANING = {name: PLAIN | EXACT for name in ("mg", "maml", "fomaml")} | {"stacx": PLAIN}
# Of KL(new policy || policy before) in the outer loss: Zahavy et al. 2020, arXiv 2002.12928.
STACX_KL_COST = 1.0


class OptimizerSettings(NamedTuple):
    """An inner optimiser."""

    name: Literal["sgd", "rmsprop", "adam"]  # without momentum; Adam's second decay is 0.999
    learning_rate: optax.ScalarOrSchedule  # a schedule is of the number of updates
    decay: float = 0.99  # of RMSProp's second moment
    epsilon: float = 0.01  # of RMSProp and Adam
    # Of RMSProp's epsilon, inside its root or outside; Adam's is always outside.
    epsilon_placement: Literal["inside", "outside"] = "inside"
    max_gradient_norm: float = 0.0  # at which to clip before anything else; 0 does not clip
    # Of a moving average of the gradients, which the rule then gets instead; 0 averages nothing.
    gradient_decay: float = 0.0
    # Of Adam's first moment: another such average, but corrected for its start at zero, and of
    # gradients whose second moment is their own; 0 averages nothing.
    adam_beta1: float = 0.9


class MetaSettings(NamedTuple):
    """How hyper-parameters are learned, under the names of the configuration's `meta`."""

    inner_steps: int  # K
    bootstrap_steps: int  # L
    keep_bootstrapped: bool  # the learner goes on from the (K+L-1)-th update, not from the K-th
    matching: str
    l2_weight: float
    policy_weight: float
    value_weight: float
    target_optimizer: Literal["learner", "sgd"]
    target_learning_rate: float | None  # of "sgd"; None: rate, schedule and clipping of the learner
    learning_rate: float
    epsilon: float
    max_gradient_norm: float
    warmup_updates: int  # before the meta-parameters move; their optimiser sees nothing of these
    context_length: int  # rewards that the meta-network sees; 0: there is no meta-network
    context_normalised: bool
    hidden: list[int]  # widths of its hidden layers


class Settings(NamedTuple):
    """All that decides how an agent learns, beside its network and what it plays."""

    algorithm: str  # a name of `agents.algorithm.ALGORITHMS`
    optimizer: OptimizerSettings
    objective: str  # a name of `agents.objectives.OBJECTIVES`
    loss: Literal["sum", "mean"]  # over the valid steps
    heads: Heads
    max_kl: float  # of a step that is learned from, see `within_trust_region`; 0: of all steps
    fixed: Mapping[str, float]  # value of each hyper-parameter that is not learned
    learned: Mapping[str, Learned]  # empty where none is
    outer: Mapping[str, float]  # values in the plain objective
    kl_cost: float  # of the plain objective
    meta: MetaSettings
    # From a number of updates to the hyper-parameters that another run learned by then.
    replayed: Callable[[jax.Array], dict[str, jax.Array]] | None = None
