"""The hyper-parameters of an update: one table, from which everything else is made.

Adding a hyper-parameter is adding an entry; reading it is `hyper["name"]` in a loss. Its fixed
value `agent.<name>`, its value in the plain objective `meta.outer.<name>`, its bound
`meta.upper.<name>` and its place in `meta.learned` follow from the entry (docs/extending.md).

No jax in here: the configuration reads this table, and is checked before jax is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jax

# By name: a scalar for all heads, or [heads], the acting head first.
Hyperparameters = Mapping[str, "jax.Array | float"]


class Hyperparameter(NamedTuple):
    """What must be known of a hyper-parameter to fix it, to learn it and to explain it."""

    meaning: str
    default: float  # its fixed value, or where learning starts
    outer: float | None  # its value in the plain (outer) objective; None: it is not part of it
    upper: float | None  # bound; None: no bound when fixed, its outer value when learned
    per_head: bool = True  # whether each auxiliary head has its own
    limit: float | None = None  # that a bound which is set may not exceed; None: `upper`


class Learned(NamedTuple):
    """A hyper-parameter that is learned: where it starts and what it stays below."""

    start: float
    upper: float


# Outer values and ranges: Zahavy et al. 2020 (arXiv 2002.12928). Their value cost of 0.25 weighs
# the squared error; ours weighs half of it.
HYPERPARAMETERS: dict[str, Hyperparameter] = {
    "discount": Hyperparameter(
        "Of the return, for each step.", default=0.99, outer=0.995, upper=1.0
    ),
    "vtrace_lambda": Hyperparameter("Mixing of n-step targets.", default=1.0, outer=1.0, upper=1.0),
    # One leak for both kinds of weight, as STACX and BMG learn it. The two that follow multiply it,
    # for whoever wants them apart; the theory needs that of rho to be at least that of c.
    "vtrace_leak": Hyperparameter(
        "1: clipped importance weights (V-trace); 0: unclipped ones.",
        default=1.0,
        outer=1.0,
        upper=1.0,
    ),
    "vtrace_leak_rho": Hyperparameter(
        "Factor of vtrace_leak for the weights of errors.", default=1.0, outer=1.0, upper=1.0
    ),
    "vtrace_leak_c": Hyperparameter(
        "Factor of vtrace_leak for the trace coefficients.", default=1.0, outer=1.0, upper=1.0
    ),
    "policy_cost": Hyperparameter(
        "Weight of the policy-gradient loss.", default=1.0, outer=1.0, upper=None
    ),
    "value_cost": Hyperparameter(
        "Weight of half the squared value error.", default=0.5, outer=0.5, upper=None
    ),
    "entropy_cost": Hyperparameter(
        "Weight of the policy's entropy.", default=0.01, outer=0.01, upper=None
    ),
    "epsilon": Hyperparameter(
        "Share of random actions of an epsilon-greedy policy.",
        default=0.1,
        outer=None,
        upper=1.0,
        per_head=False,
    ),
    "learning_rate_scale": Hyperparameter(
        "Factor of every inner update.",
        default=1.0,
        outer=None,
        upper=2.0,
        per_head=False,
        limit=1_000.0,
    ),
}
