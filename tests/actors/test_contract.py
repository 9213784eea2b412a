"""Mistakes in environments of a user's own: each is one line that says what to change."""

import re

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actors.environments.contract import check_device, check_gymnasium, check_vector
from actors.environments.device import make_catch
from actors.environments.suites import SUITES, check_environment
from actors.environments.vector import EnvironmentRefused, Timestep, told
from tests.actors.specs import CATCH as SPEC

# On the device. Each changes a right one.

CATCH = make_catch()


def _step(change):
    """Catch, whose steps' results are changed."""
    return CATCH._replace(step=lambda *given: change(*CATCH.step(*given)))


def _with_reply(**changes):
    return _step(lambda state, reply: (state, reply._replace(**changes)))


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        (None, "returns NoneType None, not a DeviceEnvironment"),
        (CATCH._replace(observe=3), "its observe is int 3"),
        (CATCH._replace(num_actions=0), "num_actions=0: must be a whole number, at least 1"),
        (CATCH._replace(observation_shape=50), "observation_shape=50: must be a tuple"),
        (CATCH._replace(observation_shape=(49,)), "gives uint8[50], but .* say uint8[49]"),
        (CATCH._replace(observation_dtype=np.float32), "gives uint8[50], but .* say float32[50]"),
        (CATCH._replace(draws=-1), "draws=-1: must be a whole number, at least 0"),
        (CATCH._replace(draws="1"), "draws='1': must be a whole number"),
        (_with_reply(valid=None), "valid of its Reply is NoneType None"),
        (
            CATCH._replace(step=lambda s, a, draws: CATCH.step(s, [0, 1][2], draws)),
            "its step raised IndexError: list index out of range",
        ),
        (
            CATCH._replace(reset=lambda key: 1 // 0),
            "its reset raised ZeroDivisionError: .*test_contract.py:",
        ),
        (_step(lambda state, reply: reply), "its step returns a Reply, not (state, Reply"),
        (_step(lambda state, reply: (state, 1.0)), "returns (state, float 1.0), not a Reply"),
        (
            _step(lambda state, reply: (tuple(state), reply)),
            "returns a state that is a tuple, and its reset a Board",
        ),
        (
            _step(lambda state, reply: (jax.tree.map(jnp.float32, state), reply)),
            "after its reset, and float32[] after its step",
        ),
        (_with_reply(reward=jnp.zeros(2)), "reward of its Reply is float32[2], not one number"),
        (_with_reply(ended=jnp.ones(())), "ended of its Reply is float32[], not one bool"),
        (
            CATCH._replace(step=lambda s, a, draws: CATCH.step(s, a, draws + draws[1])),
            "more random numbers than the DeviceEnvironment's draws=1: raise that (IndexError",
        ),
        (
            CATCH._replace(step=lambda s, a, draws: CATCH.step(s, int(a), draws)),
            "its step raised ConcretizationTypeError: .*test_contract.py:",
        ),
    ],
)
def test_mistakes_on_the_device(environment, part):
    with pytest.raises(EnvironmentRefused) as refused:
        check_device(environment)
    _says(refused, part)


def _says(refused, part):
    """One line with this part, in which `.*` stands for anything."""
    (line,) = str(refused.value).splitlines()
    assert re.search(".*".join(map(re.escape, part.split(".*"))), line), line


@pytest.mark.parametrize("suite", [s for s in SUITES if SUITES[s].on_device and s != "few_shot"])
def test_what_is_built_in_has_no_fault(suite):
    maker = SUITES[suite].on_device
    for game in SUITES[suite].games:
        check_device(maker(SPEC._replace(suite=suite, game=game)))


# On the host.


class Host:
    """Two places, as a suite would make them."""

    num_envs, num_actions, observation_shape, observation_dtype, frame_stack = 1, 2, (3,), "f4", 0

    def reset(self, seeds):
        return np.zeros((len(seeds), 3), np.float32)

    def step(self, action):
        rows = np.zeros(len(action), np.float32)
        flags = np.zeros(len(action), bool)
        return Timestep(self.reset(action), rows, rows, flags, flags, rows)

    def close(self):
        pass


def _host(**changes):
    return type("Host", (Host,), changes)()


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        (_host(observation_shape=(4,)), "shape [2, 3] to 2 environments, but .* says [4] of each"),
        (_host(reset=lambda self, seeds: None), "its reset gives observations of shape []"),
        (_host(step=lambda self, action: {}), "its step returns dict {}, not a Timestep"),
        (
            _host(step=lambda self, a: Host().step(a)._replace(ended=False)),
            "ended of its Timestep has shape [], not [2]",
        ),
        (
            _host(step=lambda self, a: Host().step(a)._replace(reward=np.full(2, np.nan))),
            "rewards hold NaN or infinities",
        ),
        (_host(num_actions=None), "num_actions=None: must be a whole number"),
    ],
)
def test_mistakes_on_the_host(environment, part):
    check_vector(Host(), np.arange(2))
    with pytest.raises(EnvironmentRefused) as refused:
        check_vector(environment, np.arange(2))
    _says(refused, part)


def test_what_a_class_lacks_is_named():
    with pytest.raises(EnvironmentRefused, match=r"^object has no num_actions, .*, step, close$"):
        check_vector(object(), np.arange(2))


class Single(gymnasium.Env):
    """An environment of Gymnasium's interface."""

    observation_space = gymnasium.spaces.Box(0, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        return np.zeros(3), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(3), 0.0, False, np.bool_(False), {}


def _steps(*given):
    return type("Single", (Single,), {"step": lambda self, action: given})()


def _resets(given):
    return type("Single", (Single,), {"reset": lambda self, seed=None: given})()


ZEROS = np.zeros(3)


class Mended(gymnasium.ObservationWrapper):
    """Makes of an environment one whose spaces and observations fit."""

    observation_space = Single.observation_space

    def observation(self, observation):
        return np.nan_to_num(observation)


@pytest.mark.parametrize(
    "environment",
    [
        _steps(ZEROS, np.float64(1), 0, 1, {}),
        _steps([0.0, 1.0, 0.0], 1, jnp.zeros((), bool), np.array(True), {}),
        Mended(_steps(ZEROS + np.nan, 0.0, False, False, {})),
    ],
)
def test_what_gymnasium_can_play_is_right(environment):
    check_gymnasium(environment)


class Leaving(Single):
    """Ends its program when it is closed, as pygame's examples do."""

    def close(self):
        raise SystemExit


gymnasium.register("ContractLeaving-v0", Leaving, max_episode_steps=9)


def test_closing_ends_no_program():
    check_environment(SPEC._replace(suite="gymnasium", game="ContractLeaving-v0"), 0)


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        (_resets(ZEROS), "its reset returns an array float64[3], not a tuple (observation, info)"),
        (_resets((np.zeros(2), {})), "observation of shape [2], but its observation_space has [3]"),
        (_resets((ZEROS + np.nan, {})), "observation of its reset holds NaN or infinities"),
        (
            _steps(ZEROS, 0.0, False, {}),
            "its step returns 4 values, not a tuple (observation, reward",
        ),
        (_steps(np.zeros(2), 0.0, False, False, {}), "its step gives an observation of shape [2]"),
        (_steps(ZEROS, None, False, False, {}), "the reward of its step is NoneType None"),
        (
            _steps(ZEROS, np.zeros(2), False, False, {}),
            "the reward of its step is an array float64[2], not one",
        ),
        (_steps(ZEROS, np.inf, False, False, {}), "the reward of its step is NaN or infinite"),
        (_steps(ZEROS, 0.0, "no", False, {}), "terminated of its step is str 'no', not True or"),
    ],
)
def test_mistakes_in_gymnasium(environment, part):
    check_gymnasium(Single())
    with pytest.raises(EnvironmentRefused) as refused:
        check_gymnasium(environment)
    _says(refused, part)


def test_what_was_raised_is_told_with_the_users_own_line():
    try:
        np.concatenate([np.zeros(2), np.zeros((2, 2))])
    except ValueError as error:
        line = told(error)
    assert line.startswith("ValueError: all the input arrays must have")
    assert f"({__file__}:" in line
