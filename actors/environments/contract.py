"""What an environment has to keep to, looked at before anything is created; a fault is one line.

Whoever adds an environment makes these mistakes, and what they cause elsewhere names neither their
file nor what to change.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.spaces import Box, Discrete

from actors.environments.device import DeviceEnvironment, Reply
from actors.environments.vector import EnvironmentRefused, Timestep, VectorEnvironment, told

_ATTRIBUTES = ("num_actions", "observation_shape", "observation_dtype", "frame_stack")
_METHODS = ("reset", "step", "close")


def check_device(environment: Any, *, carried: bool = True) -> None:
    """Traces each function of an environment on the device once.

    Args:
        environment: of a suite.
        carried: whether its state goes through a scan, in which it may not change its type.

    Raises:
        EnvironmentRefused: one does not fit the others, or what is said of it.
    """
    if not isinstance(environment, DeviceEnvironment):
        raise EnvironmentRefused(
            f"the suite's on_device returns {_kind(environment)}, not a DeviceEnvironment"
        )
    for name in ("reset", "observe", "step"):
        if not callable(getattr(environment, name)):
            raise EnvironmentRefused(f"its {name} is {_kind(getattr(environment, name))}")
    _check_numbers(environment.num_actions, environment.observation_shape)
    _require(
        isinstance(environment.draws, int) and environment.draws >= 0,
        f"draws={environment.draws!r}: must be a whole number, at least 0",
    )
    shape, dtype = tuple(environment.observation_shape), np.dtype(environment.observation_dtype)
    with _raised_by("reset"):
        state = jax.eval_shape(environment.reset, jax.random.key(0))
    with _raised_by("observe"):
        seen = jax.eval_shape(environment.observe, state)
    _require(hasattr(seen, "shape"), f"its observe returns {_kind(seen)}, not an array")
    _require(
        (seen.shape, seen.dtype) == (shape, dtype),
        f"its observe gives {_array(seen)}, but observation_shape and observation_dtype say "
        f"{dtype}{list(shape)}",
    )
    action = jax.ShapeDtypeStruct((), np.int32)
    draws = jax.ShapeDtypeStruct((environment.draws,), np.float32)
    with _raised_by("step"):
        given = jax.eval_shape(lambda *x: _as_pair(environment.step(*x)), state, action, draws)
    _check_draws(environment, state, action)
    following, reply = given
    if carried:
        _check_state(state, following)
    for name, value in reply._asdict().items():
        _require(hasattr(value, "shape"), f"{name} of its Reply is {_kind(value)}")
        is_flag = name in ("ended", "valid")
        kinds = (jnp.bool_,) if is_flag else (jnp.bool_, jnp.number)
        fits = value.shape == () and any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
        wanted = "bool" if is_flag else "number"
        _require(fits, f"{name} of its Reply is {_array(value)}, not one {wanted}")


def _as_pair(given: Any) -> tuple[Any, Reply]:
    if not (isinstance(given, tuple) and len(given) == 2):
        raise EnvironmentRefused(f"its step returns {_kind(given)}, not (state, Reply(...))")
    if not isinstance(given[1], Reply):
        raise EnvironmentRefused(f"its step returns (state, {_kind(given[1])}), not a Reply(...)")
    return given[0], given[1]


def _check_draws(environment: DeviceEnvironment, state: Any, action: Any) -> None:
    """Refuses a step, which can be traced, that asks for a random number beyond those it gets.

    JAX would give it the last one again.
    """
    draws: Any = np.zeros(environment.draws, np.float32)  # of NumPy, which looks at its bounds
    try:
        jax.eval_shape(lambda s, a: _as_pair(environment.step(s, a, draws)), state, action)
    except IndexError as error:
        raise EnvironmentRefused(
            f"its step takes more random numbers than the DeviceEnvironment's draws="
            f"{environment.draws}: raise that ({told(error)})"
        ) from error
    except Exception:  # if it is no matter of NumPy alone, tracing it in full tells
        return


def _check_state(before: Any, after: Any) -> None:
    old, new = (jax.tree.structure(tree) for tree in (before, after))
    if type(before) is not type(after):
        old, new = (type(tree).__name__ for tree in (before, after))
    _require(old == new, f"its step returns a state that is a {new}, and its reset a {old}")
    named = jax.tree_util.tree_leaves_with_path(before)
    for (path, was), now in zip(named, jax.tree.leaves(after), strict=True):
        _require(
            (was.shape, was.dtype) == (now.shape, now.dtype),
            f"state{jax.tree_util.keystr(path)} is {_array(was)} after its reset, and "
            f"{_array(now)} after its step",
        )


def check_vector(environment: VectorEnvironment, seeds: np.ndarray) -> None:
    """Resets and steps environments on the host once.

    Args:
        environment: B of them.
        seeds: [B].

    Raises:
        EnvironmentRefused: what they give does not fit what they say of themselves.
    """
    lacking = [name for name in (*_ATTRIBUTES, *_METHODS) if not hasattr(environment, name)]
    _require(not lacking, f"{type(environment).__name__} has no {', '.join(lacking)}")
    _check_numbers(environment.num_actions, environment.observation_shape)
    count = len(seeds)
    with _raised_by("reset"):
        first = environment.reset(seeds)
    _check_observation("reset", first, environment, count)
    with _raised_by("step"):
        given = environment.step(np.zeros(count, np.int32))
    _require(isinstance(given, Timestep), f"its step returns {_kind(given)}, not a Timestep")
    _check_observation("step", given.observation, environment, count)
    for name in Timestep._fields[1:]:
        shape = np.shape(getattr(given, name))
        _require(
            shape == (count,), f"{name} of its Timestep has shape {list(shape)}, not [{count}]"
        )
    _require(_is_finite(given.reward), "rewards hold NaN or infinities")


def _check_observation(method: str, given: Any, environment: VectorEnvironment, count: int) -> None:
    shape, stack = environment.observation_shape, environment.frame_stack
    rows = (shape[-1], *shape[:-1]) if stack else shape
    got = np.shape(given)
    _require(
        got == (count, *rows),
        f"its {method} gives observations of shape {list(got)} to {count} environments, but "
        f"observation_shape says {list(shape)} of each",
    )
    _require(_is_finite(given), f"observations of its {method} hold NaN or infinities")


def check_gymnasium(environment: Any) -> None:
    """Resets and steps a single environment of Gymnasium, without wrappers, once.

    One whose spaces are not those of the suite is not played: the suite says that.

    Raises:
        EnvironmentRefused: it does not keep to Gymnasium's interface.
    """
    space, actions = environment.observation_space, environment.action_space
    if not isinstance(actions, Discrete) or not isinstance(space, Box | Discrete):
        return
    with _raised_by("reset"):
        given = environment.reset(seed=0)
    _require(
        isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping),
        f"its reset returns {_kind(given)}, not a tuple (observation, info)",
    )
    shape = space.shape or ()
    _check_of_space("reset", given[0], shape)
    with _raised_by("step"):
        given = environment.step(actions.start)
    _require(
        isinstance(given, tuple) and len(given) == 5,
        f"its step returns {_kind(given)}, not a tuple (observation, reward, terminated, "
        "truncated, info)",
    )
    observation, reward, *ends, _ = given
    _check_of_space("step", observation, shape)
    is_number = np.ndim(reward) == 0 and str(np.asarray(reward).dtype.kind) in "fiub"
    _require(is_number, f"the reward of its step is {_kind(reward)}, not one number")
    _require(_is_finite(reward), "the reward of its step is NaN or infinite")
    for name, value in zip(("terminated", "truncated"), ends, strict=True):
        fits = np.ndim(value) == 0 and str(np.asarray(value).dtype.kind) in "biu"
        _require(fits, f"{name} of its step is {_kind(value)}, not True or False")


def _check_of_space(method: str, given: Any, shape: tuple[int, ...]) -> None:
    got = np.shape(given)
    _require(
        got == shape,
        f"its {method} gives an observation of shape {list(got)}, but its observation_space has "
        f"{list(shape)}",
    )
    _require(_is_finite(given), f"the observation of its {method} holds NaN or infinities")


def _check_numbers(actions: Any, shape: Any) -> None:
    _require(
        isinstance(actions, int | np.integer) and bool(actions > 0),
        f"num_actions={actions!r}: must be a whole number, at least 1",
    )
    _require(
        isinstance(shape, tuple) and all(isinstance(n, int | np.integer) for n in shape),
        f"observation_shape={shape!r}: must be a tuple of whole numbers",
    )


def _is_finite(values: Any) -> bool:
    values = np.asarray(values)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise EnvironmentRefused(otherwise)


@contextmanager
def _raised_by(method: str) -> Iterator[None]:
    try:
        yield
    except EnvironmentRefused:
        raise
    except (Exception, SystemExit) as error:  # whatever a third party's code raises
        raise EnvironmentRefused(f"its {method} raised {told(error)}") from error


def _array(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}"


def _kind(value: Any) -> str:
    """A value in words: its type, of a tuple its length, and the value itself where it is short."""
    if type(value) in (tuple, list):
        return f"{len(value)} values"
    if isinstance(value, np.ndarray):
        return f"an array {_array(value)}"
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 20 else f"a {type(value).__name__}"
