"""Few-shot learning's meta-gradients against finite differences, and its identities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from agents.few_shot import (
    CLASSIFICATION,
    MATCHING,
    REGRESSION,
    Examples,
    FewShotSettings,
    Problem,
    Task,
    assess,
    assess_tasks,
    few_shot,
    init_meta_params,
    learning_of,
    meta_gradient_of,
    repeated,
)
from agents.hyperparameters import Learned
from agents.networks import make_conv_classifier, make_dense_network
from configs.schema import Config
from scripts.settings import make_settings

WAYS, SIDE = 3, 16
DENSE = make_dense_network(2, (5, 4), 1)
CLASSIFIER = make_dense_network(2, (6,), WAYS)
CONVOLUTIONS = make_conv_classifier(2, WAYS, (SIDE, SIDE, 1))


def draw_regression(key, data):
    """Three examples to learn from, four to be asked about."""
    keys = jax.random.split(key, 4)
    del data
    support, query = (
        Examples(jax.random.normal(a, (n, 2), float), jax.random.normal(b, (n, 1), float))
        for a, b, n in ((keys[0], keys[1], 3), (keys[2], keys[3], 4))
    )
    return Task(support, query)


def draw_images(key, data):
    """A task of `WAYS` classes, one example of each and two to be asked about."""
    del data
    pixels = jax.random.uniform(key, (3 * WAYS, SIDE, SIDE, 1), float)
    labels = jnp.tile(jnp.arange(WAYS), 3)
    return Task(*(Examples(pixels[i], labels[i]) for i in (slice(0, WAYS), slice(WAYS, 3 * WAYS))))


def draw_points(key, data):
    """As `draw_images`, of points in a plane."""
    images = draw_images(key, data)
    return jax.tree.map(lambda x: x[:, 0, :2, 0] if x.ndim == 4 else x, images)


NUMBERS = Problem(DENSE, REGRESSION, draw_regression)
POINTS = Problem(CLASSIFIER, CLASSIFICATION, draw_points)
IMAGES = Problem(CONVOLUTIONS, CLASSIFICATION, draw_images)


def settings(algorithm="bmg", *, learned=False, target_data="support", tasks=3, **meta):
    fixed = {"inner_steps": 1, "bootstrap_steps": 1, "matching": "kl"}
    changes = {**fixed, "target_learning_rate": None, **meta}
    return FewShotSettings(
        algorithm,
        tasks=tasks,
        learning_rate=0.1,
        rate_scale=Learned(0.8, 2.0) if learned else None,
        target_data=target_data,
        meta=make_settings(Config()).meta._replace(**changes),
    )


# For programs that run once.
in_a_hurry = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def check_against_finite_differences(of, problem, directions=None, compile=in_a_hurry):
    """In every direction, or in some that are drawn, with the target held fixed."""
    learning = learning_of(of, problem)
    # So small that no unit crosses zero on the way, where a ReLU's slope jumps.
    h = 1e-6

    @compile
    def both(key):
        meta_params = init_meta_params(of, problem.network, key)
        task = problem.sample(key, None)
        gradient, output = meta_gradient_of(of, learning, meta_params, task)
        flat, unflatten = ravel_pytree(meta_params)

        def loss(move):
            moved = unflatten(flat + move)
            params, _ = jax.lax.scan(
                lambda params, _: learning.update(params, task, moved),
                moved.weights,
                length=of.meta.inner_steps,
            )
            return learning.distance(output.target.state, params, repeated(task, 1))

        if directions is None:
            along = jnp.eye(flat.size)
        else:
            along = jax.random.normal(key, (directions, flat.size))
        moves = h * jnp.concatenate([jnp.zeros((1, flat.size)), along, -along])
        return along @ ravel_pytree(gradient)[0], output.loss, jax.vmap(loss)(moves)

    slopes, distance, losses = map(np.asarray, both(jax.random.key(0)))
    assert slopes.dtype == np.float64
    np.testing.assert_allclose(losses[0], distance, rtol=1e-9, equal_nan=False)
    up, down = np.split(losses[1:], 2)
    expected = (up - down) / (2 * h)
    largest = np.abs(expected).max()
    assert largest > 0.0
    assert (np.abs(expected) > 1e-6 * largest).mean() > 0.5
    np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-6 * largest)


MATCHING_NAMES = ("l2", *MATCHING)
STEPS = ((1, 1), (1, 5), (5, 1), (5, 5))  # K and L
FEW = [("l2", (1, 1)), ("reverse_kl", (1, 5)), ("kl", (5, 1)), ("kl", (5, 5))]


def check_points(matching, steps):
    inner_steps, bootstrap_steps = steps
    of = settings(
        learned=True, matching=matching, inner_steps=inner_steps, bootstrap_steps=bootstrap_steps
    )
    check_against_finite_differences(of, POINTS)


@pytest.mark.parametrize(("matching", "steps"), FEW)
def test_finite_differences_of_first_weights_and_rates(x64, matching, steps):
    check_points(matching, steps)


@pytest.mark.slow
@pytest.mark.parametrize("matching", MATCHING_NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_finite_differences_of_every_combination(x64, matching, steps):
    check_points(matching, steps)


@pytest.mark.parametrize(
    "target_data",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in ("support", "query")), "both"],
)
def test_finite_differences_of_regression(x64, target_data):
    of = settings(learned=True, target_data=target_data, inner_steps=2, bootstrap_steps=3)
    check_against_finite_differences(of, NUMBERS)


@pytest.mark.slow
def test_finite_differences_of_the_image_network(x64):
    """Whose normalisation sees the images together; it takes a minute to compile.

    Not in a hurry: without XLA's optimisations this program gives NaN (jax 0.10.2, on a CPU).
    """
    of = settings(matching="kl", target_data="both", bootstrap_steps=2)
    check_against_finite_differences(of, IMAGES, directions=8, compile=jax.jit)


def query_loss_after(of, problem, task, steps, weights, *, first_order=False):
    """The textbook: SGD on the support set, then the loss of the query set."""
    network, likelihood, _ = problem

    def loss(params, examples):
        return likelihood.loss(network.apply(params, examples.inputs), examples.labels)

    for _ in range(steps):
        slopes = jax.grad(loss)(weights, task.support)
        if first_order:
            slopes = jax.lax.stop_gradient(slopes)
        weights = jax.tree.map(lambda p, g: p - of.learning_rate * g, weights, slopes)
    return loss(weights, task.query)


@pytest.mark.parametrize(
    ("algorithm", "steps"),
    [("maml", 1), pytest.param("maml", 5, marks=pytest.mark.ci), ("fomaml", 5)],
)
def test_maml_is_the_special_case(x64, algorithm, steps):
    """Whatever else the settings say; and of first order it is when slopes are constants."""
    problem = NUMBERS
    of = settings(algorithm, inner_steps=steps, bootstrap_steps=4, matching="kl")
    meta_params = init_meta_params(of, problem.network, jax.random.key(0))
    learning = learning_of(of, problem)

    @in_a_hurry
    def every(meta_params):
        task = problem.sample(jax.random.key(1), None)
        ours, _ = meta_gradient_of(of, learning, meta_params, task)
        plain = [
            jax.grad(
                lambda weights, first_order=first_order: query_loss_after(
                    of, problem, task, steps, weights, first_order=first_order
                )
            )(meta_params.weights)
            for first_order in (False, True)
        ]
        return [ravel_pytree(x)[0] for x in (ours.weights, *plain)]

    ours, maml, fomaml = map(np.asarray, every(meta_params))
    here, other = (maml, fomaml) if algorithm == "maml" else (fomaml, maml)
    largest = np.abs(here).max()
    np.testing.assert_allclose(ours, here, rtol=1e-10, atol=1e-10 * largest)
    assert np.abs(ours - other).max() > 1e-3 * largest


def test_a_meta_step_is_adam_on_the_mean_over_tasks():
    of = settings("maml", tasks=4, learning_rate=1e-2)
    algorithm = few_shot(of, NUMBERS)

    @in_a_hurry
    def stepped(key):
        state = algorithm.init(key)
        weights = state.meta.params.weights
        new, metrics = algorithm.step(state, key[None], None)
        tasks = jax.vmap(lambda k: NUMBERS.sample(k, None))(jax.random.split(key, 4))

        def mean_loss(weights):
            losses = jax.vmap(lambda task: query_loss_after(of, NUMBERS, task, 1, weights))(tasks)
            return jnp.mean(losses)

        loss, slopes = jax.value_and_grad(mean_loss)(weights)
        moved = jax.tree.map(jnp.subtract, new.meta.params.weights, weights)
        flat = [ravel_pytree(x)[0] for x in (slopes, moved)]
        return *flat, loss, new.inner.tally["loss/total"], metrics["meta/gradient_norm"]

    slopes, moved, loss, tallied, norm = map(np.asarray, stepped(jax.random.key(0)))
    np.testing.assert_allclose(tallied, loss, rtol=1e-5)
    np.testing.assert_allclose(norm, np.linalg.norm(slopes), rtol=1e-4)
    # Adam's first step is its rate, against the gradient.
    clear = np.abs(slopes) > 1e-4
    assert clear.sum() > 10
    np.testing.assert_allclose(moved[clear], -1e-2 * np.sign(slopes[clear]), rtol=1e-2)


def test_an_assessment_is_of_plain_gradient_steps():
    of = settings("maml")

    @in_a_hurry
    def assessed(key):
        meta_params = init_meta_params(of, CLASSIFIER, key)
        keys = jax.random.split(key, 5)
        task = POINTS.sample(keys[4], None)
        losses = [query_loss_after(of, POINTS, task, n, meta_params.weights) for n in (0, 3)]
        many = assess_tasks(of, POINTS, meta_params, key, None, tasks=5, steps=3)
        return assess(of, POINTS, meta_params, task, 3), jnp.stack(losses), many

    known, losses, many = jax.device_get(assessed(jax.random.key(0)))
    np.testing.assert_allclose(known.query_loss[[0, 3]], losses, rtol=1e-4)
    assert known.support_loss[3] < known.support_loss[0]
    right = known.accuracy * 2 * WAYS
    np.testing.assert_allclose(right, np.round(right), atol=1e-4)
    assert many.query_loss.shape == many.accuracy.shape == (5, 4)
    np.testing.assert_allclose(many.query_loss[4], known.query_loss, rtol=1e-4)


@pytest.mark.ci
def test_the_cosine_of_maml_with_itself_is_one():
    """BMG with a short step and parameters compared is MAML; with all it has, it is not."""
    short = settings(matching="l2", target_learning_rate=1e-2)

    @in_a_hurry
    def cosines(key):
        every = [few_shot(of, NUMBERS) for of in (short, settings(bootstrap_steps=5))]
        return [a.diagnose(a.init(key), key[None], None)["meta/cosine"] for a in every]

    plain, other = cosines(jax.random.key(0))
    assert plain == pytest.approx(1.0, abs=1e-4)
    assert -1.0 <= other < 0.999
