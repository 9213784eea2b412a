"""Atari against ALE itself: its own frame counter, and actions replayed in a single emulator."""

import inspect

import ale_py
import numpy as np
import pytest
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv

from actors.environments import atari
from actors.environments.atari import Atari, replay
from actors.environments.atari_games import GAMES, human_normalised_score
from actors.environments.suites import protocol
from actors.environments.vector import EnvironmentRefused
from actors.seeding import environment_seeds
from tests.actors.specs import ATARI

SEEDS = environment_seeds(3, 0, 3)


def _play(spec, steps, seeds=SEEDS, choose=None):
    """Random play; returns the environment, the actions [T, B], the timesteps and first frames."""
    environment = Atari(spec, len(seeds), 2)
    first = environment.reset(seeds)
    noops = environment.first_frame.copy()
    random = np.random.default_rng(0)
    actions, timesteps = [], []
    for _ in range(steps):
        action = random.integers(environment.num_actions, size=len(seeds), dtype=np.int32)
        if choose is not None:
            action[:] = choose
        actions.append(action)
        timesteps.append(environment.step(action))
    return np.stack(actions), timesteps, noops, first


def _emulator(spec, seed, noops):
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.setInt("random_seed", int(seed))
    emulator.setFloat("repeat_action_probability", spec.sticky_actions)
    emulator.loadROM(str(roms.get_rom_path(spec.game)))
    emulator.reset_game()
    for _ in range(noops):
        emulator.act(ale_py.Action.NOOP)
    return emulator


def _resize(frame):
    """[210, 160] to [84, 84] by the mean over the area that each new pixel covers."""

    def weights(old, new):
        edges = np.arange(new + 1) * old / new
        low = np.maximum(edges[:-1, None], np.arange(old))
        high = np.minimum(edges[1:, None], np.arange(1, old + 1))
        return np.clip(high - low, 0, None) * new / old

    return weights(210, 84) @ frame @ weights(160, 84).T


@pytest.mark.ci
@pytest.mark.parametrize("game", ["breakout", "ms_pacman"])
@pytest.mark.parametrize("sticky", [0.0, 0.25])
@pytest.mark.parametrize("full", [False, True])
def test_first_episodes_equal_a_single_emulator(game, sticky, full):
    """Reward, lives, ends, frame counts and pixels of each step, one environment at a time."""
    spec = ATARI._replace(
        game=game, sticky_actions=sticky, full_action_space=full, life_loss_discount=0.5
    )
    actions, timesteps, noops, first = _play(spec, 250)
    total = 0.0
    for b, seed in enumerate(SEEDS):
        emulator = _emulator(spec, seed, noops[b])
        assert emulator.getEpisodeFrameNumber() == noops[b]
        assert np.abs(first[b, -1] - _resize(emulator.getScreenGrayscale())).max() <= 1
        np.testing.assert_array_equal(first[b, :-1], 0)
        legal = emulator.getLegalActionSet() if full else emulator.getMinimalActionSet()
        lives = emulator.lives()
        for t, step in enumerate(timesteps):
            reward, screens = 0.0, []
            for _ in range(4):
                reward += emulator.act(legal[actions[t, b]])
                screens.append(emulator.getScreenGrayscale())
                if emulator.game_over():
                    break
            assert step.valid[b]
            assert step.reward[b] == reward
            total += reward
            assert step.frames[b] == emulator.getEpisodeFrameNumber() - noops[b]
            over = emulator.game_over()
            assert step.ended[b] == over
            expected = 0.0 if over else 0.5 if emulator.lives() < lives else 1.0
            assert step.discount[b] == expected
            lives = emulator.lives()
            if over:
                break
            pooled = np.maximum(screens[-1], screens[-2]).astype(float)
            assert np.abs(step.observation[b, -1] - _resize(pooled)).max() <= 1
    assert total > 0


def test_every_option_of_ale_is_set(monkeypatch):
    """None is left to a default, those of later versions neither."""
    given = {}

    class Recording(AtariVectorEnv):
        def __init__(self, game, num_envs, **options):
            given.update(options)
            super().__init__(game, num_envs, **options)

    monkeypatch.setattr(atari, "AtariVectorEnv", Recording)
    Atari(ATARI, 1, 1)
    options = set(inspect.signature(AtariVectorEnv.__init__).parameters) - {
        "self",
        "game",
        "num_envs",
    }
    # Only continuous actions, which are off, read this one.
    assert options - {"continuous_action_threshold"} == set(given)
    assert given["reward_clipping"] is given["use_fire_reset"] is given["episodic_life"] is False


def test_rewards_are_raw():
    _, timesteps, _, _ = _play(ATARI._replace(game="ms_pacman"), 100)
    rewards = {float(r) for step in timesteps for r in step.reward}
    assert max(rewards) >= 10


def test_a_lost_life_ends_no_episode_but_discounts():
    """Whole games of Breakout: every episode loses all its five lives, the last one ends it."""
    spec = ATARI._replace(life_loss_discount=0.0)
    environment = Atari(spec, 2, 1)
    environment.reset(SEEDS[:2])
    lost = np.zeros(2, int)
    random = np.random.default_rng(1)
    finished = 0
    for _ in range(1200):
        step = environment.step(random.integers(4, size=2, dtype=np.int32))
        lost += step.discount == 0.0
        for b in np.flatnonzero(step.ended):
            assert step.discount[b] == 0.0
            assert lost[b] == 5
            lost[b] = 0
            finished += 1
        assert (step.discount[~step.valid] == 1.0).all()
    assert finished >= 3


@pytest.mark.parametrize("limit", [100, 102])
def test_a_time_limit_cuts_but_does_not_end(limit):
    """The limit counts frames, those skipped included, no-ops not; the cut step's discount is 1."""
    spec = ATARI._replace(game="pong", max_episode_frames=limit)
    environment = Atari(spec, 2, 1)
    environment.reset(SEEDS[:2])
    ends = []
    for t in range(80):
        step = environment.step(np.zeros(2, np.int32))
        if step.ended.any():
            assert step.ended.all()
            assert (step.discount == 1.0).all()
            assert (step.frames == limit).all()
            ends.append(t)
            last = step.observation
            reset = environment.step(np.ones(2, np.int32))
            assert not reset.valid.any()
            assert (reset.reward == 0).all()
            assert (reset.frames == 0).all()
            assert (reset.observation[:, :-1] == 0).all()  # a stack of its own
            assert not np.array_equal(reset.observation, last)
    assert ends[:2] == [24, 24 + 1 + 24] if limit == 100 else [25, 25 + 1 + 25]


def test_fire_is_never_pressed_for_the_agent():
    """Breakout waits for FIRE: without it no life is ever lost."""
    _, timesteps, _, _ = _play(ATARI, 300, choose=0)
    assert all((step.discount == 1.0).all() for step in timesteps)
    _, timesteps, _, _ = _play(ATARI, 300, choose=1)
    assert any((step.discount == 0.0).any() for step in timesteps)


@pytest.mark.ci
def test_up_to_thirty_noops_all_of_them_possible():
    seeds = environment_seeds(1, 0, 80)  # the first seed with which 80 draws are enough
    environment = Atari(ATARI._replace(game="pong"), 80, 2)
    environment.reset(seeds)
    assert set(environment.first_frame) == set(range(31))
    none = Atari(ATARI._replace(game="pong", noop_max=0), 4, 1)
    none.reset(seeds[:4])
    assert (none.first_frame == 0).all()


def test_sticky_actions_change_the_game():
    plain, sticky = (
        _play(ATARI._replace(game="pong", sticky_actions=p), 120)[1][-1].observation
        for p in (0.0, 0.25)
    )
    assert not np.array_equal(plain, sticky)


def test_the_same_seeds_play_the_same_game_and_others_do_not():
    a, b = (_play(ATARI, 60)[1][-1].observation for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a[0], a[1])


def test_replay_for_films_repeats_the_episode():
    actions, timesteps, noops, _ = _play(ATARI, 200)
    rewards = [reward for _, reward in replay(ATARI, int(SEEDS[0]), noops[0], list(actions[:, 0]))]
    expected = sum(float(step.reward[0]) for step in timesteps[: len(rewards) // 4])
    assert sum(rewards) == expected


def test_all_57_games_have_their_rom_and_the_stated_actions():
    assert len(GAMES) == 57
    for game in GAMES:
        emulator = _emulator(ATARI._replace(game=game.name), 0, 0)
        assert len(emulator.getMinimalActionSet()) == game.actions, game.name
        assert len(emulator.getLegalActionSet()) == (9 if game.name == "skiing" else 18)
        assert human_normalised_score(game.name, game.human_score) == 1.0
        assert human_normalised_score(game.name, game.random_score) == 0.0


@pytest.mark.ci
def test_every_game_can_be_made_and_played():
    for game in GAMES:
        environment = Atari(ATARI._replace(game=game.name, full_action_space=True), 1, 1)
        assert environment.num_actions == (9 if game.name == "skiing" else 18)
        assert environment.reset(SEEDS[:1]).shape == (1, 4, 84, 84)
        last = np.asarray([environment.num_actions - 1], np.int32)
        assert environment.step(last).valid.all()
        environment.close()


def test_unknown_roms_are_refused_and_protocols_named():
    with pytest.raises(EnvironmentRefused, match="pongg"):
        Atari(ATARI._replace(game="pongg"), 1, 1)
    stamp = protocol(ATARI._replace(sticky_actions=0.25), 1.0)
    assert stamp["ale_py"] == ale_py.__version__
    assert stamp["sticky_actions"] == 0.25
    assert stamp["noop_max"] == 30
    assert stamp["action_set"] == "minimal"
    assert stamp["max_episode_frames"] == 108_000
    assert stamp["frame_skip"] == 4
