"""Networks: our strided convolution against haiku's, and shapes."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.networks import (
    _IMAGE_TORSOS,
    NetworkOutput,
    _HalfOverlapConv,
    _PatchConv,
    check_observations,
    make_network,
    without_last_logits,
)


@pytest.mark.parametrize(
    ("size", "stride", "channels", "dtype"),
    [(84, 4, 4, np.uint8), (20, 2, 16, np.float32), (87, 4, 4, np.uint8), (33, 4, 3, np.float32)],
)
def test_half_overlap_convolution_is_a_convolution(size, stride, channels, dtype):
    """Same parameters, same outputs and same gradients as hk.Conv2D, cropped sizes included."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 255, (3, size, size, channels)).astype(dtype))
    ours = hk.without_apply_rng(
        hk.transform(lambda x: _HalfOverlapConv(8, stride, scale=1 / 255, name="c")(x))
    )
    theirs = hk.without_apply_rng(
        hk.transform(
            lambda x: hk.Conv2D(8, 2 * stride, stride, padding="VALID", name="c")(
                x.astype(jnp.float32) / 255
            )
        )
    )
    params = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, theirs.init(jax.random.key(0), x)
    )
    expected = theirs.apply(params, x)
    np.testing.assert_allclose(ours.apply(params, x), expected, atol=2e-5)
    weights = jnp.asarray(rng.normal(size=expected.shape), jnp.float32)

    def gradient(f):
        return jax.grad(lambda p: jnp.vdot(f.apply(p, x), weights))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3),
        gradient(ours),
        gradient(theirs),
    )


def test_convolution_of_patches_is_a_convolution():
    ours = hk.without_apply_rng(hk.transform(lambda x: _PatchConv(8, name="c")(x)))
    theirs = hk.without_apply_rng(
        hk.transform(lambda x: hk.Conv2D(8, 3, padding="VALID", name="c")(x))
    )
    x = jax.random.normal(jax.random.key(0), (5, 10, 7, 4))
    params = ours.init(jax.random.key(1), x)
    shapes = jax.tree.map(jnp.shape, theirs.init(jax.random.key(1), x))
    assert jax.tree.map(jnp.shape, params) == shapes
    params["c"]["b"] = jnp.arange(8.0)

    def value(network, params, x):
        return jnp.sum(jnp.sin(network.apply(params, x)))

    np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), rtol=1e-4, atol=1e-5)
    gradients = [jax.grad(value, argnums=(1, 2))(n, params, x) for n in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *gradients)


@pytest.mark.parametrize("name", ["shallow", "shallow_atari", "deep"])
def test_image_networks(name):
    network = make_network(name, 6, (84, 84, 4), np.uint8)
    params = network.init(jax.random.key(0))
    observation = jnp.full((2, 3, 84, 84, 4), 255, jnp.uint8)
    outputs = network.apply(params, observation)
    assert outputs.logits.shape == (2, 3, 6)
    assert outputs.value.shape == (2, 3)
    policy = jax.nn.softmax(outputs.logits)
    np.testing.assert_allclose(policy, 1 / 6, atol=0.03)  # close to uniform before training


def test_published_sizes():
    """PAPER-FACTS 5.2: torso of the deep network 1.09M; haiku's three-convolution one 1.68M."""

    def count(name):
        params = make_network(name, 6, (84, 84, 4), np.uint8).init(jax.random.key(0))
        return sum(
            leaf.size
            for module, p in params.items()
            for leaf in p.values()
            if module not in ("policy", "value")
        )

    assert round(count("deep") / 1e6, 2) == 1.09
    assert round(count("shallow_atari") / 1e6, 2) == 1.68


def test_vector_observations_and_refusal():
    network = make_network("deep", 2, (4,), np.float32)
    assert network.apply(network.init(jax.random.key(0)), jnp.ones((5, 4))).value.shape == (5,)
    dense, key = make_network("dense", 2, (4,), np.float32), jax.random.key(0)
    jax.tree.map(np.testing.assert_array_equal, dense.init(key), network.init(key))
    with pytest.raises(ValueError, match="it takes vectors"):
        make_network("dense", 2, (84, 84, 4), np.uint8)
    with pytest.raises(ValueError, match="neither"):
        make_network("shallow", 2, (4, 4), np.float32)


def test_without_last_logits_nothing_else_changes():
    """Outputs and their pull-back are the same, as long as nobody asks for the last logits."""
    network = make_network("separate", 4, (30,), np.float32)
    lean = without_last_logits(network)
    params = network.init(jax.random.key(0))
    observation = jax.random.normal(jax.random.key(1), (7, 2, 30))
    outputs, pull_back = jax.vjp(lambda p: network.apply(p, observation), params)
    lean_outputs, lean_pull_back = jax.vjp(lambda p: lean.apply(p, observation), params)
    # Another batch size is another order of sums, on some processors.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(lean_outputs.logits[:-1], outputs.logits[:-1])
    close(lean_outputs.value, outputs.value)
    assert lean_outputs.logits.shape == outputs.logits.shape
    logits = jax.random.normal(jax.random.key(2), outputs.logits.shape).at[-1].set(0.0)
    cotangent = NetworkOutput(logits, jax.random.normal(jax.random.key(3), outputs.value.shape))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        lean_pull_back(cotangent),
        pull_back(cotangent),
    )


def test_separate_networks_share_nothing():
    network = make_network("separate", 4, (30,), np.float32)
    params = network.init(jax.random.key(0))
    observation = jax.random.normal(jax.random.key(1), (5, 30))
    of_policy = jax.grad(lambda p: jnp.sum(network.apply(p, observation).logits ** 2))(params)
    of_value = jax.grad(lambda p: jnp.sum(network.apply(p, observation).value ** 2))(params)
    layers = {
        name: [bool(np.any(layer["w"])) for layer in (of_policy[name], of_value[name])]
        for name in params
    }
    assert all(a != b for a, b in layers.values()), layers
    widths = sorted(layer["w"].shape for layer in params.values())
    assert widths == sorted([(30, 256)] * 2 + [(256, 256)] * 2 + [(256, 4), (256, 1)])
    with pytest.raises(ValueError, match="vectors"):
        make_network("separate", 4, (84, 84, 4), np.uint8)


@pytest.mark.parametrize("name", ["shallow", "shallow_atari", "deep", "small"])
def test_the_smallest_images_that_a_network_takes(name):
    """Its convolutions leave a pixel of them, and none of images that are a pixel smaller."""
    torso, smallest = _IMAGE_TORSOS[name]
    network = make_network(name, 2, (smallest, smallest + 4, 3), np.uint8)
    observation = jnp.ones((1, smallest, smallest + 4, 3), jnp.uint8)
    assert network.apply(network.init(jax.random.key(0)), observation).logits.shape == (1, 2)
    if smallest > 1:
        with pytest.raises((ZeroDivisionError, RuntimeWarning)):
            hk.transform(torso).init(jax.random.key(0), observation[:, 1:])
        with pytest.raises(
            ValueError, match=rf"too small.*{smallest} x {smallest}.*network=.*deep"
        ):
            make_network(name, 2, (smallest - 1, smallest + 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "shallow",
            (7, 7, 3),
            r"too small for it: it takes 20 x 20 and more; .*network=deep or small$",
        ),
        ("shallow_atari", (28, 28, 1), r"use agent.network=shallow or deep or small$"),
        ("deep", (3, 64, 64), r"\[3, 64, 64\] look like \[C, H, W\]; it takes \[H, W, C\]"),
        ("shallow", (4, 84, 84), r"look like \[C, H, W\]"),
        ("deep", (1, 28, 28), r"look like \[C, H, W\]"),
        ("deep", (3, 7, 7), r"look like \[C, H, W\]"),
        ("shallow", (0,), r"\[0\] are neither \[features\] nor \[H, W, C\]"),
        ("deep", (8, 0, 3), r"neither \[features\] nor \[H, W, C\]"),
        ("deep", (84, 84), r"neither \[features\] nor \[H, W, C\]"),
        ("separate", (84, 84, 4), "it takes vectors.*use deep"),
    ],
)
def test_observations_that_are_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        make_network(name, 2, shape, np.uint8)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("deep", (4, 4, 16)),  # a board and the kinds of its pieces
        ("deep", (10, 10, 7)),
        ("deep", (3, 30, 4)),
        ("deep", (3, 5, 16)),
        ("shallow", (64, 64, 64)),
        ("shallow", (4,)),
        ("separate", (4,)),
    ],
)
def test_unusual_observations_that_are_taken(name, shape):
    check_observations(name, shape)
