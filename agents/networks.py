"""Policy and value networks; the only file that imports haiku."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from agents import few_rows

Params = Any  # haiku's nested dict of arrays
_BATCH_NORM_EPSILON = 1e-3


class NetworkOutput(NamedTuple):
    """What a network says about each observation. Fields of heads that it lacks are None."""

    logits: jax.Array  # [..., A]
    value: jax.Array  # [...]
    auxiliary_logits: jax.Array | None = None  # [..., N, A] of N auxiliary heads
    auxiliary_value: jax.Array | None = None  # [..., N]
    outer_value: jax.Array | None = None  # [...], learned under the outer discount


class Network(NamedTuple):
    """A pair of pure functions. `apply` takes any number of leading axes."""

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, jax.Array], NetworkOutput]


class DenseNetwork(NamedTuple):
    """A pair of pure functions; `apply` takes vectors [..., F] to vectors [..., N]."""

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, jax.Array], jax.Array]


def _space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """[N, H, W, C] to [N, H // block, W // block, block * block * C], cropped to whole blocks."""
    height, width, channels = x.shape[1] // block, x.shape[2] // block, x.shape[3]
    x = x[:, : height * block, : width * block]
    if x.dtype == jnp.uint8 and channels == 4:
        # The four stacked frames of one pixel move as one 32-bit word: on a CPU XLA transposes
        # bytes one by one, which took longer than the convolution that follows.
        x = jax.lax.bitcast_convert_type(x, jnp.uint32)
        x = x.reshape(-1, height, block, width, block).transpose(0, 1, 3, 2, 4)
        x = jax.lax.bitcast_convert_type(x, jnp.uint8)
    else:
        x = x.reshape(-1, height, block, width, block, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, height, width, block * block * channels)


class _HalfOverlapConv(hk.Module):
    """VALID convolution whose kernel is twice its stride, as one matrix product and three sums.

    With the image cut into stride-sized blocks, each output reads 2x2 blocks: multiply every block
    by all four quarters of the kernel at once, then add the products where they belong. Equal to
    `hk.Conv2D` up to rounding; on a CPU the gradient of the shallow network takes half the time,
    because XLA's own weight gradient of a strided convolution is slow (docs/performance.md).
    """

    def __init__(self, channels: int, stride: int, scale: float = 1.0, name: str | None = None):
        super().__init__(name=name)
        self._channels, self._stride, self._scale = channels, stride, scale

    def __call__(self, x: jax.Array) -> jax.Array:
        stride, inputs, outputs = self._stride, x.shape[-1], self._channels
        fan_in = 4 * stride * stride * inputs
        w = hk.get_parameter(
            "w",
            (2 * stride, 2 * stride, inputs, outputs),
            init=hk.initializers.TruncatedNormal(fan_in**-0.5),
        )
        b = hk.get_parameter("b", (outputs,), init=jnp.zeros)
        # [2s, 2s, C, O] to [s*s*C, (quarter, O)], rows in the order of `_space_to_depth`.
        quarters = w.reshape(2, stride, 2, stride, inputs, outputs).transpose(1, 3, 4, 0, 2, 5)
        quarters = quarters.reshape(stride * stride * inputs, 4 * outputs) * self._scale
        blocks = _space_to_depth(x, stride).astype(w.dtype)
        products = (blocks.reshape(-1, quarters.shape[0]) @ quarters).reshape(
            *blocks.shape[:3], 4, outputs
        )
        total = (
            products[:, :-1, :-1, 0]
            + products[:, :-1, 1:, 1]
            + products[:, 1:, :-1, 2]
            + products[:, 1:, 1:, 3]
        )
        return total + jnp.broadcast_to(b, total.shape)


class _PatchConv(hk.Module):
    """VALID 3x3 convolution as a product with patches.

    Equal to `hk.Conv2D` up to rounding. Its weight gradient is a product as well, where XLA's own
    takes several times its forward pass on a CPU.
    """

    def __init__(self, channels: int, *, bias: bool = True, name: str | None = None):
        super().__init__(name=name)
        self._channels, self._bias = channels, bias

    def __call__(self, x: jax.Array) -> jax.Array:
        height, width, inputs = x.shape[1] - 2, x.shape[2] - 2, x.shape[3]
        init = hk.initializers.TruncatedNormal((9 * inputs) ** -0.5)
        w = hk.get_parameter("w", (3, 3, inputs, self._channels), x.dtype, init=init)
        shifted = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        y = jnp.concatenate(shifted, axis=-1) @ w.reshape(-1, self._channels)
        if not self._bias:
            return y
        b = hk.get_parameter("b", (self._channels,), x.dtype, init=jnp.zeros)
        return y + jnp.broadcast_to(b, y.shape)


class _BatchNorm(hk.Module):
    """Normalises each channel over the images of one call and their pixels; keeps no averages.

    So what it says of an image depends on the others that it is asked about with it: the
    transductive form, as MAML's.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = hk.get_parameter("scale", (channels,), x.dtype, init=jnp.ones)
        offset = hk.get_parameter("offset", (channels,), x.dtype, init=jnp.zeros)
        axes = tuple(range(x.ndim - 1))
        centred = x - jnp.mean(x, axes, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + _BATCH_NORM_EPSILON)
        return y * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(offset, x.shape)


class _FewRowsLinear(hk.Module):
    """`hk.Linear`, of the same name in a checkpoint, with a product made for a few rows."""

    def __init__(self, width: int, name: str = "linear"):
        super().__init__(name=name)
        self._width = width

    def __call__(self, x: jax.Array) -> jax.Array:
        init = hk.initializers.TruncatedNormal(x.shape[-1] ** -0.5)
        w = hk.get_parameter("w", (x.shape[-1], self._width), init=init)
        b = hk.get_parameter("b", (self._width,), init=jnp.zeros)
        y = few_rows.product(x, w)
        return y + jnp.broadcast_to(b, y.shape)


def _pixel_scale(x: jax.Array) -> float:
    return 1.0 / 255.0 if x.dtype == jnp.uint8 else 1.0


def _flatten(x: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, features]."""
    return x.reshape(x.shape[0], -1)


def _shallow_torso(x: jax.Array) -> jax.Array:
    """IMPALA's two-convolution network (16 8x8/4, 32 4x4/2, dense 256), published for DMLab."""
    x = jax.nn.relu(_HalfOverlapConv(16, 4, scale=_pixel_scale(x))(x))
    x = jax.nn.relu(_HalfOverlapConv(32, 2)(x))
    return jax.nn.relu(hk.Linear(256)(_flatten(x)))


def _shallow_atari_torso(x: jax.Array) -> jax.Array:
    """IMPALA's three-convolution network for Atari (32 8x8/4, 64 4x4/2, 64 3x3/1, dense 512)."""
    x = jax.nn.relu(_HalfOverlapConv(32, 4, scale=_pixel_scale(x))(x))
    x = jax.nn.relu(_HalfOverlapConv(64, 2)(x))
    x = jax.nn.relu(hk.Conv2D(64, 3, padding="VALID")(x))
    return jax.nn.relu(hk.Linear(512)(_flatten(x)))


def _deep_torso(x: jax.Array) -> jax.Array:
    """IMPALA's residual network (Espeholt et al. 2018, figure 3, without the LSTM)."""
    x = x.astype(jnp.float32) * _pixel_scale(x)
    for channels in (16, 32, 32):
        x = hk.Conv2D(channels, 3)(x)
        x = hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        for _ in range(2):
            block = hk.Conv2D(channels, 3)(jax.nn.relu(x))
            x = x + hk.Conv2D(channels, 3)(jax.nn.relu(block))
    return jax.nn.relu(hk.Linear(256)(_flatten(jax.nn.relu(x))))


def _small_torso(x: jax.Array) -> jax.Array:
    """One convolution and a dense layer (16 3x3, 128): MinAtar's (Young and Tian 2019)."""
    x = x.astype(jnp.float32) * _pixel_scale(x)
    return jax.nn.relu(hk.Linear(128)(_flatten(jax.nn.relu(_PatchConv(16)(x)))))


def _flat_torso(x: jax.Array) -> jax.Array:
    """Two dense layers of 128 for observations that are not images."""
    return _dense(x.astype(jnp.float32) * _pixel_scale(x), (128, 128))


def _wide_flat_torso(x: jax.Array) -> jax.Array:
    """Two dense layers of 256: the grid world's (Flennerhag et al., section 5.1)."""
    return _dense(x.astype(jnp.float32) * _pixel_scale(x), (256, 256), _FewRowsLinear)


# From a width to a layer, as `hk.Linear`.
_MakeLayer = Callable[[int], Callable[[jax.Array], jax.Array]]


def _dense(x: jax.Array, widths: Sequence[int], layer: _MakeLayer = hk.Linear) -> jax.Array:
    for width in widths:
        x = jax.nn.relu(layer(width)(x))
    return x


class Heads(NamedTuple):
    """What stands on the torso beside the policy and value that act."""

    auxiliary: int = 0  # more policies and values: Zahavy et al. 2020 (arXiv 2002.12928)
    auxiliary_layers: int = 0  # dense layers of 256 in each
    outer_value: bool = False  # a value for the outer loss: Bonnet et al. 2022


NO_HEADS = Heads()


def _auxiliary_heads(features: jax.Array, heads: Heads, num_actions: int) -> list[jax.Array]:
    """Logits [N, heads, A] and values [N, heads] of all auxiliary heads."""
    logits, values = [], []
    for i in range(heads.auxiliary):
        x = features
        for layer in range(heads.auxiliary_layers):
            x = jax.nn.relu(hk.Linear(256, name=f"auxiliary_{i}_dense_{layer}")(x))
        logits.append(_policy(num_actions, f"auxiliary_{i}_policy")(x))
        values.append(hk.Linear(1, name=f"auxiliary_{i}_value")(x)[..., 0])
    return [jnp.stack(logits, axis=1), jnp.stack(values, axis=1)]


def _policy(num_actions: int, name: str) -> hk.Linear:
    # Small first logits: the untrained policy is close to uniform.
    return hk.Linear(num_actions, w_init=hk.initializers.TruncatedNormal(0.01), name=name)


class _ImageTorso(NamedTuple):
    apply: Callable[[jax.Array], jax.Array]
    smallest: int  # height and width of which its convolutions leave a pixel


_IMAGE_TORSOS = {
    "shallow": _ImageTorso(_shallow_torso, 20),
    "shallow_atari": _ImageTorso(_shallow_atari_torso, 36),
    "deep": _ImageTorso(_deep_torso, 1),
    "small": _ImageTorso(_small_torso, 3),
}
_VECTORS_ONLY = ("dense", "separate")


def check_observations(name: str, observation_shape: tuple[int, ...]) -> None:
    """Refuses observations that a network cannot take, or would take for something else.

    Args:
        name: of the network, as for `make_network`.
        observation_shape: of one observation.

    Raises:
        ValueError: says which network to use, or which shape is expected.
    """
    shape, text = observation_shape, list(observation_shape)
    if len(shape) not in (1, 3) or 0 in shape:
        raise ValueError(f"observations of shape {text} are neither [features] nor [H, W, C]")
    if name in _VECTORS_ONLY:
        if len(shape) != 1:
            raise ValueError(f"it takes vectors, not observations of shape {text}; use deep")
        return
    if len(shape) == 1 or name not in _IMAGE_TORSOS:
        return
    height, width, _ = shape
    if _has_channels_first(shape):
        raise ValueError(
            f"observations of shape {text} look like [C, H, W]; it takes [H, W, C], so move the "
            "channels to the end in a wrapper of the environment"
        )
    smallest = _IMAGE_TORSOS[name].smallest
    if min(height, width) < smallest:
        fitting = [n for n, t in _IMAGE_TORSOS.items() if t.smallest <= min(height, width)]
        raise ValueError(
            f"images [H, W, C] of {text} are too small for it: it takes {smallest} x {smallest} "
            f"and more; use agent.network={' or '.join(fitting)}"
        )


def _has_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether [C, H, W] is the only likely reading: grey, colour or four frames, nearly square.

    A board of 4 x 4 with 16 kinds of pieces is [H, W, C].
    """
    first, *size = shape
    return first in (1, 3, 4) and min(size) >= 7 and max(size) <= 2 * min(size)


# (number of actions, shape of an observation, its dtype, additional heads) -> network
MakeNetwork = Callable[[int, tuple[int, ...], Any, Heads], Network]


def with_torso(torso: Callable[[jax.Array], jax.Array], *, separate: bool = False) -> MakeNetwork:
    """A maker of policy and value networks, all heads on one torso.

    Args:
        torso: from observations [N, H, W, C] or [N, features], as the environment gives them, to
            features [N, F]; may use haiku's modules.
        separate: the policy has a torso of its own, beside that of the value.
    """

    def make(
        num_actions: int, observation_shape: tuple[int, ...], dtype: Any, heads: Heads
    ) -> Network:
        return _on_torso(torso, separate, num_actions, observation_shape, dtype, heads)

    return make


def _for_images(torso: Callable[[jax.Array], jax.Array]) -> MakeNetwork:
    """Where the observations are vectors, two dense layers stand in its place."""
    return with_torso(lambda x: torso(x) if x.ndim == 4 else _flat_torso(x))


NETWORKS: dict[str, MakeNetwork] = {
    **{name: _for_images(torso.apply) for name, torso in _IMAGE_TORSOS.items()},
    "dense": with_torso(_flat_torso),
    "separate": with_torso(_wide_flat_torso, separate=True),
}


def make_network(
    name: str,
    num_actions: int,
    observation_shape: tuple[int, ...],
    dtype: Any,
    heads: Heads = NO_HEADS,
) -> Network:
    """Builds the policy and value network of a name.

    A network without additional heads also runs on the parameters of one that has some: actors
    need only the policy that acts.

    Args:
        name: in `NETWORKS`. "shallow", "shallow_atari", "deep" and "small" are for images, and all
            "dense" where the observation is a vector. "separate": for vectors only, a torso for the
            policy and one for the value.
        num_actions: A.
        observation_shape: of one observation, [H, W, C] or [features].
        dtype: of the observation; uint8 is divided by 255.
        heads: additional ones.

    Raises:
        ValueError: by `check_observations`.
    """
    check_observations(name, observation_shape)
    return NETWORKS[name](num_actions, observation_shape, dtype, heads)


def _on_torso(
    torso: Callable[[jax.Array], jax.Array],
    separate: bool,
    num_actions: int,
    observation_shape: tuple[int, ...],
    dtype: Any,
    heads: Heads,
) -> Network:
    rank = len(observation_shape)

    def forward(observation: jax.Array) -> NetworkOutput:
        features = torso(observation)
        logits = _policy(num_actions, "policy")(features)
        value_features = torso(observation) if separate else features
        value = hk.Linear(1, name="value")(value_features)[..., 0]
        outputs = NetworkOutput(logits, value)
        if heads.auxiliary:
            logits, value = _auxiliary_heads(features, heads, num_actions)
            outputs = outputs._replace(auxiliary_logits=logits, auxiliary_value=value)
        if heads.outer_value:
            value = hk.Linear(1, name="outer_value")(features)[..., 0]
            outputs = outputs._replace(outer_value=value)
        return outputs

    transformed = hk.without_apply_rng(hk.transform(forward))

    def init(key: jax.Array) -> Params:
        return transformed.init(key, jnp.zeros((1, *observation_shape), dtype))

    def apply(params: Params, observation: jax.Array) -> NetworkOutput:
        leading = observation.shape[: observation.ndim - rank]
        flat = observation.reshape(-1, *observation_shape)
        outputs = transformed.apply(params, flat)
        return jax.tree.map(lambda x: x.reshape(*leading, *x.shape[1:]), outputs)

    return Network(init, apply)


def without_last_logits(network: Network) -> Network:
    """The same network on [T + 1, ...] observations, whose last logits are 0 instead of computed.

    Nobody acts on the last observation. Where policy and value share nothing, the policy then sees
    T rows: 17 rows of a matrix take a processor a third longer than 16.
    """

    def apply(params: Params, observation: jax.Array) -> NetworkOutput:
        logits = network.apply(params, observation[:-1]).logits
        padding = [(0, 1)] + [(0, 0)] * (logits.ndim - 1)
        return NetworkOutput(jnp.pad(logits, padding), network.apply(params, observation).value)

    return Network(network.init, apply)


def make_dense_network(
    inputs: int, hidden: Sequence[int], outputs: int, *, zero_output: bool = False
) -> DenseNetwork:
    """Builds dense layers with ReLUs between them.

    Args:
        inputs: F.
        hidden: widths of the hidden layers; none make it linear.
        outputs: N.
        zero_output: the last layer's first weights are zero, so that all outputs are 0 at first.
    """

    def forward(x: jax.Array) -> jax.Array:
        w_init = jnp.zeros if zero_output else None
        return hk.Linear(outputs, w_init=w_init, name="output")(_dense(x, hidden))

    transformed = hk.without_apply_rng(hk.transform(forward))
    return DenseNetwork(
        lambda key: transformed.init(key, jnp.zeros(inputs)),
        transformed.apply,
    )


BLOCKS = 4  # of `make_conv_classifier`, each of which halves the sides of an image


def make_conv_classifier(
    filters: int, ways: int, image_shape: tuple[int, int, int]
) -> DenseNetwork:
    """Builds the four blocks of few-shot learning: Vinyals et al. 2016, as MAML has them.

    A block is a 3x3 convolution, batch normalisation, a ReLU and 2x2 max-pooling. `apply` takes
    pixels [N, H, W, C] from 0 to 1 (or 0 to 255 as uint8), which are normalised together, to logits
    [N, ways].

    Args:
        filters: of each convolution.
        ways: classes.
        image_shape: [H, W, C]; at least 16 pixels a side.
    """

    def forward(x: jax.Array) -> jax.Array:
        x = x * jnp.asarray(_pixel_scale(x), jnp.result_type(float))
        for _ in range(BLOCKS):
            padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
            # The normalisation that follows takes any bias away again.
            x = _max_pool(jax.nn.relu(_BatchNorm()(_PatchConv(filters, bias=False)(padded))))
        return hk.Linear(ways, name="output")(_flatten(x))

    transformed = hk.without_apply_rng(hk.transform(forward))
    return DenseNetwork(
        lambda key: transformed.init(key, jnp.zeros((1, *image_shape))), transformed.apply
    )


def _max_pool(x: jax.Array) -> jax.Array:
    """2x2, of [N, H, W, C]; an odd last row or column is left out.

    In a form that can be differentiated twice: the derivative of XLA's own is a slow gathering.
    """
    height, width = x.shape[1] // 2, x.shape[2] // 2
    blocks = x[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2, x.shape[-1])
    return jnp.max(blocks, axis=(2, 4))
