"""Few-shot learning: the first weights are meta-parameters, from which each task is learned anew.

MAML (Finn et al. 2017, arXiv 1703.03400), its first-order form, and BMG in place of its
meta-gradient (Flennerhag et al., arXiv 2109.04504, section 6). K gradient steps on a task's support
set are what the meta-gradient goes through; L further ones lead to the target, the last of them on
the query set. With L = 1, a step of size 1 and half the squared distance of parameters that is
MAML's gradient of the query loss.

Everything here is of one task; the step vmaps it over a batch of B tasks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from agents.algorithm import Algorithm, MetaLearning, MetaState, State, cosine, meta_step
from agents.hyperparameters import Learned
from agents.matching import Weights, squared_distance
from agents.meta_gradient import bootstrap_target, bootstrapped_meta_gradient, row
from agents.meta_parameters import initial_logit
from agents.networks import DenseNetwork, Params
from agents.optimizers import make_meta_optimizer
from agents.policies import kl_divergence
from agents.settings import EXACT, PLAIN, MetaSettings
from agents.update import Metrics


class Examples(NamedTuple):
    """Inputs and what belongs to them."""

    inputs: jax.Array  # [N, ...]
    labels: jax.Array  # [N] int32 classes, or [N, 1] numbers


class Task(NamedTuple):
    """A task: what is learned from, and what is asked about afterwards."""

    support: Examples
    query: Examples


class Likelihood(NamedTuple):
    """What a network's outputs [N, ...] mean."""

    loss: Callable[[jax.Array, jax.Array], jax.Array]  # (outputs, labels) -> mean, scalar
    divergence: Callable[[jax.Array, jax.Array], jax.Array]  # KL(first || second), mean, scalar
    accuracy: Callable[[jax.Array, jax.Array], jax.Array] | None = None  # (outputs, labels)


CLASSIFICATION = Likelihood(
    loss=lambda logits, labels: jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    ),
    divergence=lambda p, q: jnp.mean(kl_divergence(p, q)),
    accuracy=lambda logits, labels: jnp.mean(
        (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype)
    ),
)
# The squared error is, up to a constant, the negative log-likelihood of a normal distribution of
# variance 1/2; the divergence of two of them is the squared difference of their means.
REGRESSION = Likelihood(
    loss=lambda outputs, labels: jnp.mean(jnp.square(outputs - labels)),
    divergence=lambda p, q: jnp.mean(jnp.square(p - q)),
)


# (key, data) -> a task
Sample = Callable[[jax.Array, Any], Task]


class Problem(NamedTuple):
    """What is to be learned, and by what network."""

    network: DenseNetwork  # from inputs to outputs
    likelihood: Likelihood
    sample: Sample  # draws a task from `data`, which the step is given


class FewShotSettings(NamedTuple):
    """All that decides how tasks are learned, beside the network."""

    algorithm: str  # maml, fomaml or bmg
    tasks: int  # B, of a meta-step
    learning_rate: float  # of the gradient steps within a task
    # Of a factor of that rate, one for each layer, where those are learned.
    rate_scale: Learned | None
    target_data: str  # what the first L - 1 steps to the target see: support, query or both
    meta: MetaSettings


class MetaParams(NamedTuple):
    """What all tasks share."""

    weights: Params  # from which each task starts
    rates: dict[str, jax.Array]  # by layer, logit of its factor of the rate; {} where it is 1


class Assessment(NamedTuple):
    """How a task is known after 0, 1, ... gradient steps; [steps + 1] each."""

    support_loss: jax.Array
    query_loss: jax.Array
    accuracy: jax.Array | None  # on the query set; None where there are no classes


def learning_of(settings: FewShotSettings, problem: Problem) -> MetaLearning:
    """The meta-gradient of one task, and what it is made of.

    States are weights; inputs of each step are the whole task.
    """
    settings, (network, likelihood, _) = _settled(settings), problem
    meta, rate = settings.meta, settings.learning_rate
    weights = Weights(meta.l2_weight, meta.policy_weight)

    def gradient(params: Params, examples: Examples) -> Params:
        return jax.grad(
            lambda p: likelihood.loss(network.apply(p, examples.inputs), examples.labels)
        )(params)

    def update(params: Params, task: Task, meta_params: MetaParams) -> tuple[Params, Metrics]:
        return step(params, task.support, meta_params), {}

    def step(params: Params, examples: Examples, meta_params: MetaParams) -> Params:
        slopes = gradient(params, examples)
        if settings.algorithm == "fomaml":
            # What makes it first-order: the slopes do not depend on the weights.
            slopes = jax.lax.stop_gradient(slopes)
        scales = rate_scales(settings, meta_params)
        return {
            layer: _moved(own, slopes[layer], rate * scales.get(layer, 1.0))
            for layer, own in params.items()
        }

    def further(params: Params, task: Task, meta_params: MetaParams) -> tuple[Params, Metrics]:
        return step(params, _seen_by_target(task, settings.target_data), meta_params), {}

    def last_update(initial: Params, params: Params, task: Task) -> Params:
        del initial
        size = rate if meta.target_learning_rate is None else meta.target_learning_rate
        return _moved(params, gradient(params, task.query), size)

    def distance(target: Params, learner: Params, tasks: Task) -> jax.Array:
        if meta.matching == "l2":
            return weights.l2 * squared_distance(target, learner)
        asked = row(tasks, -1).query.inputs
        outputs = network.apply(target, asked), network.apply(learner, asked)
        return weights.policy * MATCHING[meta.matching](likelihood, *outputs)

    # Steps written out would take minutes to compile: each is a network, differentiated twice.
    target = bootstrap_target(further, last_update, written_out=0)
    meta_gradient = bootstrapped_meta_gradient(
        update,
        target,
        distance,
        start=lambda meta_params, state: meta_params.weights,
        recompute=False,  # a task is small
        written_out=0,
    )
    return MetaLearning(update, target, distance, meta_gradient)


# (likelihood, outputs of the target, outputs of the learner) -> scalar; `l2` is of parameters.
MATCHING: dict[str, Callable[[Likelihood, jax.Array, jax.Array], jax.Array]] = {
    "kl": lambda likelihood, target, learner: likelihood.divergence(target, learner),
    "reverse_kl": lambda likelihood, target, learner: likelihood.divergence(learner, target),
}


def _moved(params: Params, slopes: Params, size: Any) -> Params:
    return jax.tree.map(lambda p, g: p - size * g, params, slopes)


def _settled(settings: FewShotSettings) -> FewShotSettings:
    """MAML and its first-order form are what `mg` is: the gradient of the query loss itself."""
    if settings.algorithm == "bmg":
        return settings
    exact = PLAIN | EXACT | {"target_learning_rate": 1.0}
    return settings._replace(meta=settings.meta._replace(**exact))


def _seen_by_target(task: Task, name: str) -> Examples:
    if name == "both":
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), task.support, task.query)
    return {"support": task.support, "query": task.query}[name]


def rate_scales(settings: FewShotSettings, meta_params: MetaParams) -> dict[str, jax.Array]:
    """Factors of the inner learning rate by layer; {} where they are not learned."""
    if settings.rate_scale is None:
        return {}
    upper = settings.rate_scale.upper
    return {layer: upper * jax.nn.sigmoid(logit) for layer, logit in meta_params.rates.items()}


def init_meta_params(
    settings: FewShotSettings, network: DenseNetwork, key: jax.Array
) -> MetaParams:
    """Random weights, and rates as the settings say."""
    weights = network.init(key)
    if settings.rate_scale is None:
        return MetaParams(weights, {})
    start, upper = settings.rate_scale
    logit = jnp.full((), initial_logit(start / upper), jnp.result_type(float))
    return MetaParams(weights, dict.fromkeys(weights, logit))


def repeated(task: Task, steps: int) -> Task:
    """The inputs of `steps` steps, each of which sees the same task."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *x.shape)), task)


def meta_gradient_of(
    settings: FewShotSettings, learning: MetaLearning, meta_params: MetaParams, task: Task
) -> tuple[MetaParams, Any]:
    """The meta-gradient and the `MetaOutput` of one task, with K and L as the settings say."""
    meta = _settled(settings).meta
    inputs = repeated(task, meta.inner_steps), repeated(task, meta.bootstrap_steps)
    return learning.gradient(meta_params, (), *inputs)


class FewShotState(NamedTuple):
    """What a learner of many seeds keeps beside the meta-parameters."""

    inner: tuple[()]  # nothing: each task starts anew
    tally: Metrics  # sums over meta-steps since they were last cleared


def few_shot(settings: FewShotSettings, problem: Problem) -> Algorithm:
    """Meta-learning over batches of tasks.

    Inputs of a step are one random key, from which its B tasks are drawn, and the data to draw them
    from. An update is a meta-step.
    """
    network, likelihood, sample = problem
    learning = learning_of(settings, problem)
    meta = settings.meta
    optimizer = make_meta_optimizer(
        meta.learning_rate, epsilon=meta.epsilon, max_gradient_norm=meta.max_gradient_norm
    )

    def init(key: jax.Array) -> State:
        params = init_meta_params(settings, network, key)
        described = _described(settings, params)
        zeros = jax.tree.map(jnp.zeros_like, {"loss/total": jnp.zeros(()), **described})
        tally = {**zeros, "updates": jnp.zeros(())}
        return State(
            FewShotState((), tally),
            jnp.zeros((), jnp.int32),
            MetaState(params, optimizer.init(params)),
        )

    def step(state: State, keys: Any, data: Any) -> tuple[State, Metrics]:
        assert state.meta is not None
        params = state.meta.params
        tasks = _draw(sample, keys[0], settings.tasks, data)

        def of_task(task: Task) -> tuple[MetaParams, Metrics]:
            slopes, output = meta_gradient_of(settings, learning, params, task)
            moved = squared_distance(output.target.state, output.state)
            loss = likelihood.loss(
                network.apply(output.state, task.query.inputs), task.query.labels
            )
            return slopes, {
                "loss/total": loss,
                "meta/loss": output.loss,
                "meta/target_distance": jnp.sqrt(moved),
            }

        slopes, seen = jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.vmap(of_task)(tasks))
        learned = meta_step(optimizer, slopes, state.meta)
        metrics = {**seen, "meta/gradient_norm": optax.tree.norm(slopes)}
        if slopes.rates:
            metrics["meta/gradient/learning_rate_scale"] = optax.tree.norm(slopes.rates)
        counted = {
            "loss/total": metrics.pop("loss/total"),
            **_described(settings, params),
            "updates": jnp.ones(()),
        }
        tally = jax.tree.map(jnp.add, state.inner.tally, counted)
        return State(FewShotState((), tally), state.updates + 1, learned), metrics

    def diagnose(state: State, keys: Any, data: Any) -> Metrics:
        """The cosine between BMG's meta-gradient and MAML's on one batch of tasks."""
        if settings.algorithm != "bmg":
            return {}
        assert state.meta is not None
        params, plain = state.meta.params, settings._replace(algorithm="maml")
        tasks = _draw(sample, keys[0], settings.tasks, data)
        ways = [(s, learning_of(s, problem)) for s in (settings, plain)]
        ours, mamls = (
            jax.tree.map(
                lambda x: jnp.mean(x, axis=0),
                jax.vmap(lambda t, s=s, of=of: meta_gradient_of(s, of, params, t)[0])(tasks),
            )
            for s, of in ways
        )
        return {"meta/cosine": cosine(ours, mamls)}

    return Algorithm(init, step, online=1, diagnose=diagnose, meta=learning)


def _draw(sample: Sample, key: jax.Array, count: int, data: Any) -> Task:
    """So many tasks, [count, ...]."""
    return jax.vmap(lambda k: sample(k, data))(jax.random.split(key, count))


def _described(settings: FewShotSettings, meta_params: MetaParams) -> Metrics:
    """Learned factors of the rate, and their mean under the name of the hyper-parameter."""
    scales = rate_scales(settings, meta_params)
    if not scales:
        return {}
    name = "meta/learning_rate_scale"
    mean = jnp.mean(jnp.stack(list(scales.values())))
    return {name: mean, **{f"{name}/{layer}": scale for layer, scale in scales.items()}}


def assess(
    settings: FewShotSettings, problem: Problem, meta_params: MetaParams, task: Task, steps: int
) -> Assessment:
    """Learns one task by so many gradient steps, and says how well it is known after each."""
    network, likelihood, _ = problem
    update = learning_of(settings, problem).update

    def known(params: Params) -> Assessment:
        support, query = (network.apply(params, examples.inputs) for examples in task)
        accuracy = likelihood.accuracy
        return Assessment(
            likelihood.loss(support, task.support.labels),
            likelihood.loss(query, task.query.labels),
            None if accuracy is None else accuracy(query, task.query.labels),
        )

    def after(params: Params, unused: Any) -> tuple[Params, Assessment]:
        params, _ = update(params, task, meta_params)
        return params, known(params)

    first = known(meta_params.weights)
    _, later = jax.lax.scan(after, meta_params.weights, length=steps)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, later)


def assess_tasks(
    settings: FewShotSettings,
    problem: Problem,
    meta_params: MetaParams,
    key: jax.Array,
    data: Any,
    *,
    tasks: int,
    steps: int,
) -> Assessment:
    """`assess` of so many tasks, [tasks, steps + 1]; as many at a time as a meta-step has."""

    def one(key: jax.Array) -> Assessment:
        return assess(settings, problem, meta_params, problem.sample(key, data), steps)

    return jax.lax.map(one, jax.random.split(key, tasks), batch_size=min(settings.tasks, tasks))
