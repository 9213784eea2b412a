"""Two colours against a second implementation in plain Python, written from the rules."""

import functools
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.seeding import np_random

from actors.environments import two_colours
from actors.environments.gymnasium_suite import GymnasiumSuite, render
from actors.environments.two_colours import TwoColoursState
from tests.actors.specs import CATCH

GAME = "actors.environments.two_colours_gymnasium:TwoColours-v0"
GAME_RESPAWN_ALL = "actors.environments.two_colours_gymnasium:TwoColoursRespawnAll-v0"
CELLS = [(row, column) for row in range(5) for column in range(5)]
MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # up, right, down, left; row 0 is the top
LAST_DRAW = np.nextafter(np.float32(1), np.float32(0))

WORLDS = ("object", "all")

# Of a random policy, to five digits: power iteration on the 13,800 states, written from the rules.
COLLECTED_PER_STEP = {"object": 0.035657, "all": 0.037304}
MEAN_REWARD = {"object": -0.038574, "all": -0.038508}
# Of the best policy, which knows the good colour, to three digits: the same, by value iteration.
BEST_REWARD = {"object": 0.279, "all": 0.269}


class Played(NamedTuple):
    """A run of random actions; row 0 of `position` and `clock` is the start, and row t + 1 and
    `reward[t]` are what action t led to."""

    action: np.ndarray  # [T]
    draw: np.ndarray  # [T]
    position: np.ndarray  # [T + 1, 3, 2]
    clock: np.ndarray  # [T + 1]
    reward: np.ndarray  # [T]


@functools.cache
def play(steps, swap_period, respawn="object"):
    """Plays random actions with the functions under test, inside one scan."""
    random = np.random.default_rng(0)
    action = random.integers(4, size=steps, dtype=np.int32)
    draw = random.random(steps, np.float32)
    start = two_colours.reset(jax.random.key(1))

    def body(state, inputs):
        action, draw = inputs
        state, reward = two_colours.step(state, action, draw, swap_period, respawn)
        return state, (state, reward)

    _, (states, reward) = jax.lax.scan(body, start, (jnp.asarray(action), jnp.asarray(draw)))
    position = np.concatenate([start.position[None], states.position])
    clock = np.concatenate([start.clock[None], states.clock])
    return Played(action, draw, position, clock, np.asarray(reward))


def free_cells(agent, other):
    """The 23 cells that a collected object may jump to, row by row."""
    return [cell for cell in CELLS if cell not in (agent, other)]


def places(number):
    """Three cells by the number of their place: a digit each, among the cells that are left."""
    agent_number, rest = divmod(number, 24 * 23)
    blue_number, red_number = divmod(rest, 23)
    left = list(CELLS)
    return tuple(left.pop(index) for index in (agent_number, blue_number, red_number))


def play_by_the_rules(start, actions, draws, swap_period, respawn):
    """The same from the paper's rules: cells as tuples, free cells as a list, time as it is."""
    agent, blue, red = (tuple(cell) for cell in start.tolist())
    positions, rewards = [(agent, blue, red)], []
    for t, (action, draw) in enumerate(zip(actions.tolist(), draws, strict=True)):
        ahead = (agent[0] + MOVES[action][0], agent[1] + MOVES[action][1])
        if ahead[0] in range(5) and ahead[1] in range(5):
            agent = ahead
        good, bad = ("blue", "red") if (t // swap_period) % 2 == 0 else ("red", "blue")
        if agent in (blue, red):
            collected = "blue" if agent == blue else "red"
            if respawn == "all":
                agent, blue, red = places(int(np.float32(13_800) * draw))
            elif collected == "blue":
                blue = free_cells(agent, red)[int(np.float32(23) * draw)]
            else:
                red = free_cells(agent, blue)[int(np.float32(23) * draw)]
            rewards.append({good: 1.0, bad: -1.0}[collected])
        else:
            rewards.append(-0.04)
        positions.append((agent, blue, red))
    return np.asarray(positions), np.asarray(rewards, np.float32)


def jumps(position):
    """[T, 2] bool: whether the blue and the red object changed cells in each step."""
    return (position[1:, 1:] != position[:-1, 1:]).any(axis=-1)


def swaps(signs):
    """How often a sequence of signs changes."""
    return int((signs[1:] != signs[:-1]).sum())


@pytest.mark.parametrize("respawn", WORLDS)
@pytest.mark.parametrize(("steps", "swap_period"), [(1_000_000, 100_000), (20_000, 1), (20_000, 7)])
def test_every_step_is_that_of_the_rules(steps, swap_period, respawn):
    played = play(steps, swap_period, respawn)
    position, reward = play_by_the_rules(
        played.position[0], played.action, played.draw, swap_period, respawn
    )
    np.testing.assert_array_equal(played.position, position)
    np.testing.assert_array_equal(played.reward, reward)
    np.testing.assert_array_equal(played.clock, np.arange(steps + 1) % (2 * swap_period))
    assert played.position.dtype == played.clock.dtype == np.int32
    assert played.reward.dtype == np.float32


def test_a_million_steps_swap_nine_times():
    """So that the comparison above has seen all that it is about."""
    played = play(1_000_000, 100_000)
    jumped = jumps(played.position)
    phase = np.arange(1_000_000) // 100_000
    for colour, first_sign in ((0, 1.0), (1, -1.0)):
        collected = np.flatnonzero(jumped[:, colour])
        expected = np.where(phase[collected] % 2 == 0, first_sign, -first_sign)
        np.testing.assert_array_equal(played.reward[collected], expected)
        assert swaps(played.reward[collected]) == 9
        assert (np.bincount(phase[collected], minlength=10) > 1000).all()
    assert not jumped.all(axis=1).any()
    np.testing.assert_array_equal(played.reward == np.float32(-0.04), ~jumped.any(axis=1))


@pytest.mark.parametrize("respawn", WORLDS)
def test_random_policy_gets_what_it_must(respawn):
    reward = play(1_000_000, 100_000, respawn).reward.astype(np.float64)
    for values, expected in (
        (reward, MEAN_REWARD[respawn]),
        (np.abs(reward) == 1.0, COLLECTED_PER_STEP[respawn]),
    ):
        blocks = values.reshape(1000, 1000).mean(axis=1)  # long ones are as good as independent
        standard_error = blocks.std() / np.sqrt(len(blocks))
        assert standard_error < 2.5e-4
        assert abs(values.mean() - expected) < 3 * standard_error


def test_observation_is_rows_and_columns():
    position = jnp.asarray([[0, 4], [2, 1], [3, 3]], jnp.int32)
    observation = two_colours.observe(TwoColoursState(position, jnp.int32(5)))
    assert observation.shape == (two_colours.FEATURES,) == (30,)
    assert observation.dtype == jnp.float32
    expected = np.zeros(30)
    expected[[0, 5 + 4, 10 + 2, 15 + 1, 20 + 3, 25 + 3]] = 1.0
    np.testing.assert_array_equal(observation, expected)


def test_features_of_many_positions():
    position = jnp.asarray(play(20_000, 7).position[:60]).reshape(4, 15, 3, 2)
    features = two_colours.features(position)
    assert features.shape == (4, 15, 30)
    for i, j in np.ndindex(4, 15):
        np.testing.assert_array_equal(features[i, j], two_colours.features(position[i, j]))


@pytest.mark.parametrize("colour", [1, 2])
def test_draws_choose_among_the_free_cells(colour):
    """From a neighbour's cell into `agent`, where the object is, for every place of the other."""
    position, action, free = [], [], []
    for agent in CELLS:
        for other in CELLS:
            if other == agent:
                continue
            # A corner has two neighbours, of which the other object can hold one.
            move, before = next(
                (index, (agent[0] - row, agent[1] - column))
                for index, (row, column) in enumerate(MOVES)
                if (agent[0] - row, agent[1] - column) in CELLS
                and (agent[0] - row, agent[1] - column) != other
            )
            position.append([before, agent, other] if colour == 1 else [before, other, agent])
            action.append(move)
            free.append(free_cells(agent, other))
    position, free = np.asarray(position, np.int32), np.asarray(free)
    assert free.shape == (600, 23, 2)

    @functools.partial(jax.vmap, in_axes=(None, None, 0))
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def following(position, action, draw):
        start = TwoColoursState(position, jnp.int32(0))
        return two_colours.step(start, action, draw, 10, "object")[0].position

    middle = ((np.arange(23) + 0.5) / 23).astype(np.float32)
    draw = np.concatenate([middle, np.asarray([0.0, LAST_DRAW, 1.0], np.float32)])
    result = np.asarray(following(position, np.asarray(action), draw))  # [26, 600, 3, 2]
    chosen = np.concatenate([np.arange(23), [0, 22, 22]])
    np.testing.assert_array_equal(result[:, :, colour], free[:, chosen].swapaxes(0, 1))
    agent, other = position[:, colour], position[:, 3 - colour]
    np.testing.assert_array_equal(result[:, :, 0], np.broadcast_to(agent, (26, 600, 2)))
    np.testing.assert_array_equal(result[:, :, 3 - colour], np.broadcast_to(other, (26, 600, 2)))


def every_place():
    """[13800, 3, 2] int32: all positions of three different cells."""
    return np.asarray([places(number) for number in range(13_800)], np.int32)


def test_a_collection_draws_all_places_anew_each_as_often():
    """Whatever was collected, and wherever; the middle of each draw's range, and its ends."""
    every = every_place()
    assert len(np.unique(every.reshape(-1, 6), axis=0)) == 13_800
    assert (every[:, 0] != every[:, 1]).any(-1).all()
    middle = ((np.arange(13_800) + 0.5) / 13_800).astype(np.float32)
    draws = jnp.asarray([*middle, 0.0, LAST_DRAW, 1.0], jnp.float32)
    for position in ([[0, 0], [0, 1], [3, 3]], [[4, 4], [2, 2], [3, 4]]):
        start = TwoColoursState(jnp.asarray(position, jnp.int32), jnp.int32(0))
        action = jnp.asarray(1 if position[0] == [0, 0] else 0)

        def following(draw, start=start, action=action):
            return two_colours.step(start, action, draw, 10, "all")[0].position

        reached = np.asarray(jax.jit(jax.vmap(following))(draws))
        np.testing.assert_array_equal(reached, every[[*range(13_800), 0, 13_799, 13_799]])


@pytest.mark.parametrize("respawn", WORLDS)
def test_the_best_possible_reward_by_dynamic_programming(respawn):
    """Relative value iteration over all states, with the transitions of the functions under test.

    With `object` a collection has 23 successors; with `all` (the test above) every place.
    """
    every = jnp.asarray(every_place())

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, None, 0))
    @functools.partial(jax.vmap, in_axes=(None, 0, None))
    @functools.partial(jax.vmap, in_axes=(0, None, None))
    def transition(position, action, draw):
        start = TwoColoursState(position, jnp.int32(0))
        state, reward = two_colours.step(start, action, draw, 10, respawn)
        cell = 5 * state.position[:, 0] + state.position[:, 1]
        return reward, 625 * cell[0] + 25 * cell[1] + cell[2]

    draws = (jnp.arange(23) + 0.5) / 23
    reward, following = map(np.asarray, transition(every, jnp.arange(4), draws))
    assert (reward == reward[0]).all()
    reward, collects = reward[0].astype(np.float64), np.abs(reward[0]) == 1.0
    number = np.zeros(25**3, int)
    place = 5 * every[..., 0] + every[..., 1]
    number[np.asarray(625 * place[:, 0] + 25 * place[:, 1] + place[:, 2])] = np.arange(13_800)
    following = number[following]  # [draws, actions, states]
    jumps_to, value = following[:, collects], np.zeros(13_800)
    # With `object` the bad colour stays where it is for long: it pays to have it in a corner.
    for _ in range(2_000 if respawn == "object" else 100):
        worth = value[following[0]]
        worth[collects] = value[jumps_to].mean(0) if respawn == "object" else value.mean()
        best = (reward + worth).max(0)
        # A tenth of a step stays: without it, values go round in a world with periods.
        gain, value = best - value, value + 0.9 * (best - value)
        value -= value.mean()
    # The best reward is between the two (Odoni 1969).
    assert BEST_REWARD[respawn] - 5e-4 < gain.min() <= gain.max() < BEST_REWARD[respawn] + 5e-4


def test_start_cells_are_distinct_and_uniform():
    number = 10_000
    keys = jax.random.split(jax.random.key(0), number)
    state = jax.jit(jax.vmap(two_colours.reset))(keys)
    assert not state.clock.any()
    cell = np.asarray(5 * state.position[..., 0] + state.position[..., 1])
    assert (
        (cell[:, 0] != cell[:, 1]) & (cell[:, 1] != cell[:, 2]) & (cell[:, 2] != cell[:, 0])
    ).all()
    for who in range(3):
        counts = np.bincount(cell[:, who], minlength=25)
        assert counts.shape == (25,)
        assert (np.abs(counts - number / 25) < 4.5 * np.sqrt(number / 25)).all()


def test_vmap_gives_what_single_grids_give():
    grids, steps, swap_period = 6, 300, 20
    random = np.random.default_rng(3)
    action = jnp.asarray(random.integers(4, size=(steps, grids), dtype=np.int32))
    draw = jnp.asarray(random.random((steps, grids), np.float32))
    keys = jax.random.split(jax.random.key(2), grids)

    def run(reset, step, keys, action, draw):
        start = reset(keys)

        def body(state, inputs):
            state, reward = step(state, *inputs, swap_period, "all")
            return state, (state, reward)

        return start, jax.lax.scan(body, start, (action, draw))[1]

    together = run(
        jax.vmap(two_colours.reset),
        jax.vmap(two_colours.step, in_axes=(0, 0, 0, None, None)),
        keys,
        action,
        draw,
    )
    for i in range(grids):
        start, after = run(two_colours.reset, two_colours.step, keys[i], action[:, i], draw[:, i])
        for one, many in zip(jax.tree.leaves(start), jax.tree.leaves(together[0]), strict=True):
            np.testing.assert_array_equal(one, many[i])
        for one, many in zip(jax.tree.leaves(after), jax.tree.leaves(together[1]), strict=True):
            np.testing.assert_array_equal(one, many[:, i])
    assert set(np.unique(together[1][1])) == {np.float32(-0.04), 1.0, -1.0}


@pytest.mark.parametrize("respawn", WORLDS)
def test_double_precision_changes_no_type(x64, respawn):
    """Gradients are tested in double precision, with this inside their scans."""
    start = two_colours.reset(jax.random.key(0))
    state, reward = two_colours.step(start, jnp.asarray(1), jnp.float32(0.5), 10, respawn)
    for one in (start, state):
        assert one.position.dtype == one.clock.dtype == jnp.int32
        assert two_colours.observe(one).dtype == jnp.float32
    assert reward.dtype == jnp.float32


def test_gymnasium_checks_it():
    environment = gymnasium.make(GAME, swap_period=10, render_mode="rgb_array")
    check_env(environment.unwrapped)
    assert environment.observation_space == gymnasium.spaces.Box(0.0, 1.0, (30,), np.float32)
    assert environment.action_space == gymnasium.spaces.Discrete(4)
    assert environment.spec is not None
    assert environment.spec.max_episode_steps is None
    environment.close()


@pytest.mark.parametrize(("game", "respawn"), [(GAME, "object"), (GAME_RESPAWN_ALL, "all")])
def test_gymnasium_plays_the_pure_functions(game, respawn):
    environment = gymnasium.make(game, swap_period=30)
    observation, _ = environment.reset(seed=4)
    random, _ = np_random(4)
    state = two_colours.reset(jax.random.key(random.integers(2**31)))
    np.testing.assert_array_equal(observation, two_colours.observe(state))
    step = jax.jit(two_colours.step, static_argnums=4)
    for action in np.random.default_rng(5).integers(4, size=500):
        observation, reward, *_ = environment.step(action)
        state, expected = step(state, action, random.random(dtype=np.float32), 30, respawn)
        np.testing.assert_array_equal(observation, two_colours.observe(state))
        assert observation.dtype == np.float32
        assert observation.flags.writeable  # the caller's own
        assert reward == float(expected)
    environment.close()


def test_gymnasium_never_ends_and_swaps():
    """Seen from outside: which object jumped is read from the observations."""
    steps, swap_period = 10_000, 50
    environment = gymnasium.make(GAME, swap_period=swap_period)
    observation, _ = environment.reset(seed=0)
    seen, rewards = [observation], []
    for action in np.random.default_rng(0).integers(4, size=steps):
        observation, reward, terminated, truncated, _ = environment.step(action)
        assert not terminated
        assert not truncated
        seen.append(observation)
        rewards.append(reward)
    environment.close()
    one_hot = np.asarray(seen).reshape(steps + 1, 3, 2, 5)
    np.testing.assert_array_equal(one_hot.sum(axis=-1), 1.0)
    jumped = jumps(one_hot.argmax(axis=-1))
    even = np.arange(steps) // swap_period % 2 == 0
    rewards = np.asarray(rewards)
    for colour, phase in np.ndindex(2, 2):
        collected = rewards[jumped[:, colour] & (even == (phase == 0))]
        assert len(collected) > 50
        np.testing.assert_array_equal(collected, 1.0 if colour == phase else -1.0)


@pytest.mark.parametrize("swap_period", [0, 2**30])
def test_gymnasium_refuses_a_period_that_cannot_be_counted(swap_period):
    with pytest.raises(ValueError, match="swap_period"):
        gymnasium.make(GAME, swap_period=swap_period)


def test_gymnasium_refuses_a_world_that_there_is_not():
    with pytest.raises(ValueError, match="respawn=agent: must be one of object, all"):
        gymnasium.make(GAME, respawn="agent")


def test_suite_plays_it():
    spec = CATCH._replace(suite="gymnasium", game=GAME)
    environment = GymnasiumSuite(spec, 2, 1)
    assert environment.num_actions == 4
    assert environment.observation_shape == (30,)
    assert environment.observation_dtype == np.float32
    first = environment.reset(np.asarray([1, 2]))
    assert (first[0] != first[1]).any()
    for t in range(30):
        step = environment.step(np.asarray([t % 4, 1], np.int32))
        assert step.observation.shape == (2, 30)
        assert step.reward.dtype == np.float32
        assert step.valid.all()
        assert not step.ended.any()
        np.testing.assert_array_equal(step.discount, 1.0)
        np.testing.assert_array_equal(step.frames, t + 1)
    environment.close()


def test_pictures_show_the_three():
    spec = CATCH._replace(suite="gymnasium", game=GAME)
    environment = gymnasium.make(GAME)
    observation, _ = environment.reset(seed=6)
    for action, picture in zip([0, 1, 2, 3] * 5, render(spec, 6, [0, 1, 2, 3] * 5), strict=True):
        assert picture.shape == (160, 160, 3)
        cells = observation.reshape(3, 2, 5).argmax(axis=-1)
        middles = picture[16::32, 16::32].astype(int)
        (agent, blue, red) = (middles[row, column] for row, column in cells)
        assert agent.max() < 100
        assert blue.argmax() == 2
        assert red.argmax() == 0
        assert (middles.min(axis=-1) > 200).sum() == 22
        observation, *_ = environment.step(action)
    environment.close()
