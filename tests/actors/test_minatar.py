"""MinAtar: the games against the package, where it is installed, and by hand-derived cases.

`uv run --with minatar pytest -n 0 tests/actors/test_minatar.py` compares them with the package
`minatar` too, which is no dependency; `-m "slow or not slow"` makes the long comparison.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from actors.environments.minatar.games import make_game

NAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
RAMPING = ("asterix", "seaquest", "space_invaders")

NOTHING, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
GONE, NO_BULLET = 13, 29  # cells of empty slots in Seaquest


# By hand, from the rules.


LANES = 16


@functools.cache
def compiled(name):
    """A game with all six actions, and its compiled step of 16 environments at once: `(state,
    action, draws, restart draws, whether to begin anew what is over) -> (state, reward, over,
    observation)`, the latter before a new beginning."""
    game = make_game(name, minimal_actions=False)

    def step(state, action, draws, restart_draws, restart):
        state, reward, over = game.step(state, action, draws)
        new = game.restart(state, restart_draws)
        following = jax.tree.map(functools.partial(jnp.where, over & restart), new, state)
        return following, reward, over, game.observe(state)

    return game, jax.jit(jax.vmap(step, (0, 0, 0, 0, None)))


def many(state):
    """One state in each lane."""
    return jax.tree.map(lambda x: jnp.asarray(np.stack([np.asarray(x)] * LANES)), state)


class Play:
    """An environment that is stepped by hand, in all lanes; draws are 0.5 where not said."""

    def __init__(self, name, *start_draws, **values):
        self.game, self._step = compiled(name)
        self._start_draws = start_draws or (0.5,) * self.game.start_draws
        self.state = many(self.game.start(jnp.asarray(self._start_draws, jnp.float32)))
        self.set(**values)

    def set(self, **values):
        before = self.state.game
        for name, value in values.items():
            assert np.shape(value) == getattr(before, name).shape[1:]
        cast = {k: many(np.asarray(v, getattr(before, k).dtype)) for k, v in values.items()}
        self.state = self.state._replace(game=before._replace(**cast))
        return self

    def step(self, action=NOTHING, *draws):
        """One step; the draws are those after the sticky one."""
        draws = (0.5, *draws, *[0.5] * self.game.step_draws)[: self.game.step_draws]
        self.state, reward, over, seen = self._step(
            self.state,
            np.full(LANES, action, np.int32),
            np.full((LANES, len(draws)), draws, np.float32),
            np.full((LANES, self.game.start_draws), self._start_draws, np.float32),
            np.bool_(False),
        )
        reward, over, seen = np.asarray(reward), np.asarray(over), np.asarray(seen)
        assert (reward == reward[0]).all()
        assert (over == over[0]).all()
        assert (seen == seen[0]).all()
        self.seen = seen[0]
        return int(reward[0]), bool(over[0])

    def one(self):
        return jax.tree.map(lambda x: x[0], self.state)

    def __getattr__(self, name):
        value = np.asarray(getattr(self.state.game, name))[0]
        return value.item() if value.shape == () else value

    def cells(self, channel):
        """Where the observation shows something: pairs of column and row."""
        return {(int(x), int(y)) for y, x in np.argwhere(self.seen[:, :, channel])}


def without_ramping(name, *fields):
    """The compiled step without ramping, for these fields of the state alone: it takes little to
    compile, as the rest of the game is left out."""
    game = make_game(name, ramping=False, minimal_actions=False)

    @jax.jit
    def step(state, action):
        after = game.step(state, action, jnp.full(game.step_draws, 0.5))[0].game
        return [getattr(after, field) for field in fields]

    return step


class TestAsterix:
    EMPTY = -20

    def things(self, **by_row):
        """Columns of things, given as y3=5."""
        return [by_row.get(f"y{row}", self.EMPTY) for row in range(10)]

    def test_things_come_every_10_steps_from_step_11_and_move_every_5_from_step_6(self):
        play = Play("asterix", y=8)
        before, spawns, moves = play.thing, [], []
        for step in range(1, 33):
            play.step(NOTHING, 0.0, 0.5, 0.0)  # an enemy from the left, into the first free row
            if (play.thing >= 0).sum() > (before >= 0).sum():
                spawns.append(step)
                assert play.thing.max() == 1 + (step - 11) // 5
            if play.thing[1] != before[1]:
                moves.append(step)
            before = play.thing
        assert spawns == [11, 21, 31]
        assert moves == [11, 16, 21, 26, 31]
        assert play.thing[1:4].tolist() == [5, 3, 1]
        assert play.cells(1) == {(5, 1), (3, 2), (1, 3)}
        assert play.cells(2) == {(4, 1), (2, 2), (0, 3)}
        assert play.cells(3) == set()

    def test_intervals_get_shorter_every_102_steps_nine_times(self):
        play, ramps = Play("asterix"), []
        before = (10, 5)
        for step in range(1, 1031):
            assert not play.step(NOTHING, 0.5, 0.0, 0.5)[1]  # gold only
            now = (play.spawn_interval, play.move_interval)
            if now != before:
                ramps.append((step, *now))
            before = now
        pairs = [(9, 5), (8, 4), (7, 4), (6, 3), (5, 3), (4, 2), (3, 2), (2, 1), (1, 1)]
        assert ramps == [(102 * (i + 1), *pair) for i, pair in enumerate(pairs)]
        assert play.ramp_level == 9

    def test_without_ramping_they_do_not(self):
        state = Play("asterix", ramp_countdown=-1, ramp_level=1).one()
        step = without_ramping("asterix", "spawn_interval", "move_interval", "ramp_level")
        assert step(state, NOTHING) == [10, 5, 1]

    @pytest.mark.parametrize(("kind", "reward", "over"), [(0.33, 1, False), (0.34, 0, True)])
    def test_a_new_thing_meets_a_player_at_the_edge(self, kind, reward, over):
        play = Play("asterix", x=9, y=1, spawn_countdown=0)
        assert play.step(NOTHING, 0.5, kind, 0.0) == (reward, over)  # from the right
        assert play.cells(3) == set()
        assert play.cells(1) == ({(9, 1)} if over else set())

    def test_a_full_grid_takes_no_more(self):
        full = [self.EMPTY, *range(1, 9), self.EMPTY]
        play = Play("asterix", thing=full, spawn_countdown=0, x=0)
        assert play.step(NOTHING, 0.0, 0.0, 0.99) == (0, False)
        assert play.thing.tolist() == full
        assert play.spawn_countdown == 9

    def test_a_draw_chooses_among_the_free_rows_from_the_top(self):
        for draw, row in [(0.0, 2), (0.33, 2), (0.34, 5), (0.67, 8), (0.9999999, 8)]:
            taken = self.things(y1=3, y3=3, y4=3, y6=3, y7=3)
            play = Play("asterix", thing=taken, spawn_countdown=0, y=1, x=0)
            play.step(NOTHING, 0.0, 0.5, draw)
            assert np.flatnonzero(play.thing == 0).tolist() == [row]

    def test_a_thing_is_met_before_it_moves_or_after_and_leaves_at_the_edge(self):
        right = np.ones(10)
        play = Play("asterix", x=4, y=4, thing=self.things(y4=4, y6=9), direction=right)
        assert play.set(move_countdown=0).step() == (0, True)
        assert play.thing[[4, 6]].tolist() == [5, self.EMPTY]
        play = Play("asterix", x=6, y=4, thing=self.things(y4=4), gold=right, direction=right)
        assert play.set(move_countdown=0).step(LEFT) == (1, False)
        assert (play.thing == self.EMPTY).all()

    def test_the_player_stays_in_rows_1_to_8(self):
        play = Play("asterix")
        for _ in range(6):
            play.step(UP)
        assert play.cells(0) == {(5, 1)}
        for _ in range(9):
            play.step(DOWN)
        assert play.cells(0) == {(5, 8)}


class TestBreakout:
    def test_the_ball_comes_from_either_side(self):
        for draw, x in [(0.49, 0), (0.5, 9)]:
            play = Play("breakout", draw)
            assert (play.x, play.y, play.last_x, play.last_y) == (x, 3, x, 3)
            play.step()
            assert play.cells(1) == {(abs(x - 1), 4)}
            assert play.cells(2) == {(x, 3)}
            assert play.cells(0) == {(4, 9)}
            assert play.cells(3) == {(x, y) for x in range(10) for y in (1, 2, 3)}

    def ball(self, x, y, velocity_x, velocity_y, **values):
        ball = dict(x=x, y=y, velocity_x=velocity_x, velocity_y=velocity_y)
        return Play("breakout", 0.0, **ball, **values)

    def where(self, play):
        return play.x, play.y, play.velocity_x, play.velocity_y

    def test_the_corner_at_the_top_turns_the_ball_round(self):
        play = self.ball(0, 0, -1, -1)
        assert play.step() == (0, False)
        assert self.where(play) == (0, 0, 1, 1)
        assert play.cells(1) == play.cells(2) == {(0, 0)}

    def test_the_corner_at_the_bottom(self):
        play = self.ball(0, 8, -1, 1, paddle=1)
        assert play.step(LEFT) == (0, False)  # the paddle moves first
        assert self.where(play) == (0, 8, 1, -1)
        play = self.ball(0, 8, -1, 1, paddle=1)
        assert play.step() == (0, True)
        assert play.cells(1) == {(0, 9)}

    def test_the_paddle_returns_a_ball_above_it_and_one_that_comes_to_it(self):
        play = self.ball(4, 8, 1, 1)
        assert play.step() == (0, False)
        assert self.where(play) == (5, 8, 1, -1)
        play = self.ball(3, 8, 1, 1)
        assert play.step() == (0, False)
        assert self.where(play) == (4, 8, -1, -1)

    def test_one_brick_is_broken_in_a_run_of_them(self):
        play = self.ball(4, 4, 1, -1)
        assert play.step() == (1, False)
        assert self.where(play) == (5, 4, 1, 1)
        assert (5, 3) not in play.cells(3)
        assert len(play.cells(3)) == 29
        assert play.struck

        play = self.ball(4, 4, 1, -1, struck=True)
        for cell in [(5, 3), (6, 2), (7, 1)]:
            assert play.step() == (0, False)
            assert play.cells(1) == {cell}
            assert len(play.cells(3)) == 30
        play.step()
        assert not play.struck

    @pytest.mark.parametrize("paddle", [4, 0])
    def test_bricks_come_back_when_the_ball_arrives_at_the_bottom(self, paddle):
        play = self.ball(3, 4, 1, -1, bricks=1 << 24, paddle=paddle)
        assert play.step() == (1, False)
        for _ in range(4):
            assert play.cells(3) == set()
            assert play.step() == (0, False)
        assert play.step(LEFT if play.paddle else NOTHING) == (0, True)
        assert len(play.cells(3)) == 30


class TestFreeway:
    def draws(self, classes, right):
        return *((np.asarray(classes) - 0.5) / 5), *np.where(right, 0.5, 0.49)

    def test_a_car_of_class_m_moves_every_m_plus_1_steps(self):
        play = Play("freeway", *self.draws([1, 2, 3, 4, 5, 1, 2, 3], [True] * 5 + [False] * 3))
        before, moves = play.x, [[] for _ in range(10)]
        assert before[1:9].tolist() == [0] * 8
        for step in range(1, 13):
            play.step()
            for row in np.flatnonzero(play.x != before):
                moves[row].append(step)
            before = play.x
        sixes = [[2, 4, 6, 8, 10, 12], [3, 6, 9, 12], [4, 8, 12], [5, 10], [6, 12]]
        assert moves == [[], *sixes, *sixes[:3], []]
        assert play.x[1:9].tolist() == [6, 4, 3, 2, 2, 4, 6, 7]
        assert play.cells(1) == {(x, y + 1) for y, x in enumerate([6, 4, 3, 2, 2, 4, 6, 7])}
        assert play.cells(2) == {(5, 1), (5, 6)}  # behind those of class 1
        assert play.cells(6) == {(1, 5)}

    def test_trails_wrap(self):
        play = Play("freeway", *self.draws([5] * 8, [True, False] * 4), x=[-20, *[0, 9] * 4, -20])
        play.step()
        assert play.cells(6) == {(9, 1), (0, 2), (9, 3), (0, 4), (9, 5), (0, 6), (9, 7), (0, 8)}

    def test_the_player_moves_every_3_steps_from_step_4(self):
        play = Play("freeway", x=[-20] * 10)
        rows = [(play.step(UP), play.row)[1] for _ in range(8)]
        assert rows == [9, 9, 9, 8, 8, 8, 7, 7]

    def test_down_in_the_bottom_row_uses_up_the_cooldown(self):
        play = Play("freeway", cooldown=0)
        play.step(DOWN)
        assert (play.row, play.cooldown) == (9, 2)
        assert [(play.step(UP), play.row)[1] for _ in range(3)] == [9, 9, 8]

    def test_an_episode_has_2501_steps_and_at_most_92_crossings(self):
        play, crossings = Play("freeway", x=[-9999] * 10), 0
        for _ in range(2500):
            reward, over = play.step(UP)
            assert not over
            assert not play.seen[0, :, 0].any()
            crossings += reward
        assert play.step(UP)[1]
        assert crossings == 92

    def test_an_arrival_draws_cars_anew_where_they_are(self):
        x = [-20, 1, 2, 3, 5, 6, 7, 8, 9, -20]
        play = Play("freeway", *self.draws([5] * 8, [True] * 8), row=1, cooldown=0, x=x)
        new = self.draws([1, 2, 3, 4, 5, 4, 3, 2], [False] * 8)
        assert play.step(UP, *new) == (1, False)
        assert play.row == 9
        assert play.x.tolist() == x
        assert play.speed[1:9].tolist() == [-1, -2, -3, -4, -5, -4, -3, -2]
        assert play.countdown[1:9].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]

    @pytest.mark.parametrize(
        ("x", "countdown", "row"), [(4, 1, 9), (4, 0, 9), (3, 0, 9), (3, 1, 5)]
    )
    def test_a_hit_is_a_car_in_the_column_before_its_move_or_after(self, x, countdown, row):
        play = Play("freeway", *self.draws([2] * 8, [True] * 8), row=5, cooldown=2)
        play.set(x=[-20, *[x] * 8, -20], countdown=[0, *[countdown] * 8, 0])
        play.step()
        assert (play.row, play.cooldown) == (row, 1)


class TestSpaceInvaders:
    def columns(self, *cells):
        """A map of cells given as column and row."""
        return [sum(1 << y for x, y in cells if x == column) for column in range(10)]

    def poked(self, aliens=((0, 0),), bullets=(), bombs=(), **values):
        maps = dict(aliens=aliens, bullets=bullets, bombs=bombs)
        maps = {k: self.columns(*cells) for k, cells in maps.items()}
        return Play("space_invaders", **{"alien_countdown": 5, **maps, **values})

    def test_aliens_move_first_in_step_13_and_shoot_in_step_11_and_then_every_10(self):
        play, moves, shots = Play("space_invaders", cannon=9), [], []
        before = play.aliens.tolist()
        for step in range(1, 26):
            assert play.step() == (0, False)
            if play.aliens.tolist() != before:
                moves.append(step)
            before = play.aliens.tolist()
            shots += [(step, x) for x, y in play.cells(5) if y == 3]
        assert moves == [13, 25]
        assert shots == [(11, 7), (21, 6)]
        assert play.cells(1) == play.cells(2) == {(x, y) for x in range(6) for y in range(4)}
        assert play.cells(3) == set()

    def test_own_shots_come_every_5_steps_and_two_are_in_the_air(self):
        play = self.poked(cannon=9, bomb_countdown=99, alien_countdown=99)
        rows = []
        for _ in range(11):
            play.step(FIRE)
            rows.append(sorted(y for _, y in play.cells(4)))
        assert rows == [[8], [7], [6], [5], [4], [3, 8], [2, 7], [1, 6], [0, 5], [4], [3, 8]]

    def test_a_bullet_and_an_alien_that_exchange_rows_miss(self):
        play = self.poked([(0, 4)], [(0, 5)], alien_countdown=0)
        assert play.step() == (0, False)
        assert (play.cells(1), play.cells(4)) == ({(0, 5)}, {(0, 4)})
        assert play.direction == 1

    def test_aliens_move_sideways_into_bullets_and_out_of_them(self):
        play = self.poked([(3, 4), (9, 0)], [(2, 5), (3, 5)], alien_countdown=0)
        assert play.step() == (1, False)
        assert (play.cells(1), play.cells(4)) == ({(8, 0)}, {(3, 4)})

    def test_two_kills_in_one_step(self):
        play = self.poked([(2, 4), (7, 1), (9, 0)], [(2, 5), (7, 2)])
        assert play.step() == (2, False)
        assert (play.cells(1), play.cells(4)) == ({(9, 0)}, set())

    def test_the_left_one_of_two_nearest_columns_shoots_and_its_lowest_alien(self):
        play = self.poked([(3, 0), (3, 2), (7, 5)], bomb_countdown=0)
        play.step()
        assert play.cells(5) == {(3, 2)}
        assert play.bomb_countdown == 9
        play.step()
        assert play.cells(5) == {(3, 3)}

    def test_aliens_in_the_bottom_row_wrap_to_the_top_and_end_the_episode(self):
        play = self.poked([(0, 3), (4, 9)], alien_countdown=0)
        assert play.step() == (0, True)
        assert play.cells(1) == {(0, 4), (4, 0)}
        play = self.poked([(1, 3), (4, 9)], alien_countdown=0)  # no edge, no end
        assert play.step() == (0, False)
        assert play.cells(1) == {(0, 3), (3, 9)}

    def test_what_reaches_the_cannon_ends_the_episode(self):
        assert self.poked(bombs=[(5, 8)]).step() == (0, True)
        assert self.poked(bombs=[(5, 8)]).step(LEFT) == (0, False)
        assert self.poked(bombs=[(4, 9)]).step(LEFT) == (0, False)  # it leaves first
        assert self.poked([(5, 9)]).step() == (0, True)
        assert self.poked([(6, 9)], alien_countdown=0).step() == (0, True)
        assert self.poked([(0, 8)], alien_countdown=0, cannon=0).step() == (0, True)

    def test_after_the_last_alien_a_wave_comes_and_all_else_goes_on(self):
        last = dict(aliens=[(4, 4)], bullets=[(4, 5), (8, 5)], bombs=[(1, 1)])
        play = self.poked(**last, direction=1, cooldown=3, alien_countdown=7, bomb_countdown=4)
        before = play.one()
        assert play.step() == (1, False)
        assert play.cells(1) == play.cells(3) == {(x, y) for x in range(2, 8) for y in range(4)}
        assert (play.cells(4), play.cells(5)) == ({(8, 4)}, {(1, 2)})
        assert (play.alien_countdown, play.bomb_countdown, play.cooldown) == (6, 3, 2)
        assert (play.direction, play.interval) == (1, 11)
        assert play.set(interval=6, aliens=self.columns((8, 3))).step() == (1, False)
        assert play.interval == 6
        assert without_ramping("space_invaders", "interval")(before, NOTHING) == [12]

    def test_few_aliens_move_as_often_as_they_are(self):
        play = self.poked([(4, 0), (5, 0), (6, 0)], [(4, 1)], alien_countdown=0, direction=1)
        assert play.step() == (0, False)
        assert play.alien_countdown == 2
        play = self.poked([(4, 0), (5, 0), (6, 0)], [(5, 1)], alien_countdown=0, direction=1)
        assert play.step() == (1, False)
        assert play.alien_countdown == 2  # counted before the kill


class TestSeaquest:
    def poked(self, enemies=(), divers=(), bullets=(), left=(), right=(), **values):
        """Lists begin with the newest: enemies are (x, y, way, submarine, move, shot), divers (x,
        y, way, move), bullets (x, y, way); `left` and `right` are enemy bullets (x, y)."""

        def slots(values, size, empty):
            return [*values, *[empty] * size][:size]

        def cells(items, size, empty):
            return slots((16 * y + x + 1 for x, y, *_ in items), size, empty)

        def bits(flags):
            return sum(1 << i for i, flag in enumerate(flags) if flag)

        def rows(items):
            return [sum(2 << x for x, y in items if y == row) for row in range(10)]

        state = dict(
            enemy_cell=cells(enemies, 32, GONE),
            enemy_right=bits(way > 0 for _, _, way, *_ in enemies),
            enemy_submarine=bits(submarine for _, _, _, submarine, *_ in enemies),
            enemy_move=slots((move for *_, move, _ in enemies), 32, 0),
            enemy_shot=slots((shot for *_, shot in enemies), 32, 0),
            diver_cell=cells(divers, 2, GONE),
            diver_way=slots((way for _, _, way, _ in divers), 2, 1),
            diver_move=slots((move for *_, move in divers), 2, 0),
            bullet_cell=cells(bullets, 2, NO_BULLET),
            bullet_way=slots((way for *_, way in bullets), 2, 1),
            bombs_left=rows(left),
            bombs_right=rows(right),
        )
        return Play("seaquest", **{"y": 5, "surfaced": False, **state, **values})

    def test_enemies_and_divers_come_move_and_shoot_in_their_time(self):
        play, x, shots, divers, bullets = Play("seaquest"), [], [], [], 0
        for step in range(1, 54):
            # Enemy submarines from the left into row 2, divers from the right into row 7.
            assert play.step(NOTHING, 0.0, 0.33, 0.2, 0.5, 0.8) == (0, False)
            x.append(max((x for x, _ in play.cells(6)), default=None))
            divers.append(min((x for x, _ in play.cells(9)), default=None))
            if len(play.cells(4)) > bullets:
                shots.append((step, min(play.cells(4))))
            bullets = len(play.cells(4))
        assert x == [None] * 20 + [0] * 5 + [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6 + [5] * 4
        assert divers == [None] * 30 + [9] * 5 + [8] * 6 + [7] * 6 + [6] * 6
        # From step 51 on those of the second one too.
        assert shots == [(31, (2, 2)), (42, (4, 2)), (51, (2, 2)), (53, (4, 2))]
        assert play.cells(6) == {(5, 2), (2, 2)}
        assert play.cells(9) == {(6, 7)}
        assert play.cells(3) == {(4, 2), (1, 2), (7, 7)}
        assert play.cells(5) == set()

    @pytest.mark.parametrize(("direction", "enemies"), [(0.4, 2), (0.5, 1)])
    def test_an_enemy_in_the_row_blocks_those_of_the_other_direction(self, direction, enemies):
        play = self.poked([(4, 3, 1, False, 2, 0)], enemy_countdown=0, y=0, surfaced=True)
        play.step(NOTHING, direction, 0.34, 0.3)  # a fish in row 3
        assert len(play.cells(5)) == enemies
        assert play.enemy_countdown == 19

    def test_one_enemy_a_step_fits(self):
        play = Play("seaquest", enemy_interval=1, enemy_countdown=0, move_interval=2)
        counts = []
        for step in range(1, 100):
            row = (step % 8 + 0.5) / 8
            play.step(NOTHING, 0.0, 0.4, row)
            counts.append((play.enemy_cell != GONE).sum())
        assert counts == [*range(1, 29), *[29] * 71]

    def test_own_bullets_move_at_once_and_come_every_5_steps(self):
        play, seen = self.poked(x=1, faces_right=True), []
        for _ in range(10):
            play.step(FIRE)
            seen.append(sorted(x for x, _ in play.cells(2)))
        assert seen == [[2], [3], [4], [5], [6], [2, 7], [3, 8], [4, 9], [5], [6]]

    def test_the_submarine_turns_at_the_wall_and_shows_its_back_inside_only(self):
        play = self.poked(x=9)
        play.step(RIGHT)
        assert (play.cells(0), play.cells(1)) == ({(9, 5)}, {(8, 5)})
        play.step(LEFT)
        assert (play.cells(0), play.cells(1)) == ({(8, 5)}, {(9, 5)})
        play.set(x=9).step()
        assert (play.cells(0), play.cells(1)) == ({(9, 5)}, set())
        for _ in range(5):
            play.step(DOWN)
        assert play.cells(0) == {(9, 8)}

    def test_a_bullet_takes_the_oldest_fish_and_then_the_oldest_submarine(self):
        crowd = [(7, 2, 1, kind, 3, 5) for kind in (True, False, False, True)]
        play = self.poked(crowd, bullets=[(6, 2, 1)])
        for left in ([0, 1, 3], [0, 3], [0], []):
            assert play.step() == (1, False)
            assert np.flatnonzero(play.enemy_cell != GONE).tolist() == left
            assert play.cells(2) == set()
            play.set(bullet_cell=[16 * 2 + 6 + 1, NO_BULLET], enemy_move=[3] * 32)

    def test_the_newer_of_two_bullets_that_reach_an_enemy_is_used(self):
        play = self.poked([(4, 5, 1, False, 3, 0)], bullets=[(3, 5, 1), (5, 5, -1)], y=1)
        assert play.step() == (1, False)
        assert play.bullet_cell.tolist() == [NO_BULLET, 16 * 5 + 4 + 1]

    def test_an_enemy_drives_into_the_older_of_two_bullets(self):
        play = self.poked([(5, 5, -1, False, 0, 0)], bullets=[(3, 5, 1), (5, 5, -1)], y=1)
        assert play.step() == (1, False)
        assert play.bullet_cell.tolist() == [16 * 5 + 4 + 1, NO_BULLET]
        assert play.cells(5) == set()

    def test_submarines_drive_into_a_bullet_before_fish_and_newer_ones_first(self):
        crowd = [(3, 2, 1, kind, 0, 5) for kind in (False, True, True, False)]
        play = self.poked(crowd, bullets=[(5, 2, -1)])
        for left in ([0, 2, 3], [0, 3], [3], []):
            assert play.step() == (1, False)
            assert np.flatnonzero(play.enemy_cell != GONE).tolist() == left
            cells = np.where(play.enemy_cell == GONE, GONE, 16 * 2 + 3 + 1)
            play.set(enemy_cell=cells, enemy_move=[0] * 32, bullet_cell=[38, NO_BULLET])

    def test_an_enemy_submarine_that_is_hit_in_its_move_still_shoots(self):
        play = self.poked([(4, 3, 1, True, 0, 0)], bullets=[(4, 3, 1)])
        assert play.step() == (1, False)
        assert (play.cells(6), play.cells(2), play.cells(4)) == (set(), set(), {(6, 3)})

    def test_one_that_leaves_the_grid_shoots_in_vain(self):
        play = self.poked([(9, 3, 1, True, 0, 0), (0, 4, -1, True, 0, 0)])
        assert play.step() == (0, False)
        assert play.cells(6) == play.cells(4) == set()

    def test_fish_do_not_shoot(self):
        play = self.poked([(4, 3, 1, False, 3, 0)])
        play.step()
        assert play.cells(4) == set()

    @pytest.mark.parametrize("submarine", [True, False])
    @pytest.mark.parametrize(
        ("x", "move", "ends"), [(5, 3, True), (5, 0, True), (4, 0, True), (4, 1, False)]
    )
    def test_an_enemy_in_the_fronts_cell_ends_the_episode(self, submarine, x, move, ends):
        play = self.poked([(x, 5, 1, submarine, move, 5)])
        assert play.step() == (0, ends)

    def test_an_enemy_that_meets_the_submarine_is_not_hit(self):
        play = self.poked([(6, 5, -1, False, 0, 5)], bullets=[(4, 5, 1)])
        assert play.step() == (0, True)
        assert play.cells(2) == play.cells(5) == {(5, 5)}

    def test_enemy_bullets_hit_before_they_move_and_after(self):
        for x, y, ends in [(5, 5, True), (4, 5, True), (6, 5, False), (4, 4, False)]:
            play = self.poked(right=[(x, y)])
            assert play.step() == (0, ends)
            assert play.cells(4) == {(x + 1, y)}
        for x, ends in [(6, True), (4, False)]:
            play = self.poked(left=[(x, 5)])
            assert play.step() == (0, ends)
            assert play.cells(4) == {(x - 1, 5)}
        play = self.poked(left=[(0, 3)], right=[(9, 3)])
        play.step()
        assert play.cells(4) == set()

    def test_divers_are_collected_where_they_are_or_come_to_while_there_is_room(self):
        for x, move, collected in [(5, 3, 1), (5, 0, 1), (4, 0, 1), (4, 1, 0)]:
            play = self.poked(divers=[(x, 5, 1, move)])
            play.step()
            assert play.divers == collected
            assert play.cells(9) == (set() if collected else {(4, 5)})

    def test_a_diver_passes_through_a_full_submarine(self):
        play = self.poked(divers=[(5, 5, 1, 0)]).set(divers=6)
        assert play.step() == (0, False)
        assert (play.divers, play.cells(9)) == (6, {(6, 5)})

    def test_the_newer_of_two_divers_takes_the_last_place(self):
        play = self.poked(divers=[(5, 5, 1, 3), (5, 5, -1, 3)]).set(divers=5)
        play.step()
        assert play.divers == 6
        assert (play.cells(9), play.cells(3)) == ({(5, 5)}, {(6, 5)})
        assert play.set(diver_move=[0, 0]).step() == (0, False)  # it passes through
        assert (play.divers, play.cells(9)) == (6, {(4, 5)})

    def test_oxygen_lasts_200_steps_under_water(self):
        play = Play("seaquest")
        for step in range(1, 201):
            assert play.step(DOWN if step == 1 else NOTHING, 0.0, 0.5, 0.99, 0.0, 0.99) == (
                0,
                False,
            )
            assert play.oxygen == 200 - step
            assert len(play.cells(7)) == (200 - step) // 20
        assert play.step()[1]

    @pytest.mark.parametrize(
        ("divers", "oxygen", "reward", "left"),
        [
            (1, 57, 0, 0),
            (5, 57, 0, 4),
            (6, 199, 9, -1),
            (6, 139, 6, -1),
            (6, 19, 0, -1),
            (-1, 57, 0, -2),
        ],
    )
    def test_surfacing_costs_a_diver_and_pays_for_six(self, divers, oxygen, reward, left):
        play = self.poked(y=1)
        play.set(divers=divers, oxygen=oxygen)
        assert play.step(UP) == (reward, False)
        assert (play.divers, play.oxygen, play.surfaced) == (left, 200, True)
        assert play.cells(8) == {(x, 9) for x in range(9 - max(left, 0), 9)}
        assert play.cells(7) == {(x, 9) for x in range(10)}
        assert play.step() == (0, False)
        assert (play.divers, play.oxygen) == (left, 200)

    def test_surfacing_without_divers_ends_the_episode_and_does_nothing_else(self):
        play = self.poked(y=1, oxygen=57)
        assert play.step(UP) == (0, True)
        assert (play.divers, play.oxygen, play.surfaced, play.ramp_level) == (0, 57, False, 0)

    def test_the_last_breath_ends_the_episode_even_at_the_surface(self):
        play = self.poked(y=1, oxygen=0).set(divers=2)
        assert play.step(UP) == (0, True)
        assert (play.divers, play.oxygen, play.ramp_level) == (1, 200, 1)

    def test_full_and_empty_bars(self):
        play = self.poked().set(divers=6)
        play.step()
        assert play.cells(8) == {(x, 9) for x in range(3, 9)}
        play.set(oxygen=0).step()
        assert play.oxygen == -1
        assert play.cells(7) == set()

    def test_each_surfacing_brings_more_and_faster_enemies(self):
        play, intervals = Play("seaquest", divers=-1), []
        for _ in range(21):
            for action in (DOWN, UP):
                assert play.step(action, 0.0, 0.5, 0.99, 0.0, 0.99) == (0, False)
            intervals.append((play.enemy_interval, play.move_interval))
        faster = [5, 4, 4, 3, 3, *[2] * 16]
        assert intervals == [(max(19 - i, 1), faster[i]) for i in range(21)]
        assert (play.ramp_level, play.divers) == (19, -22)

    def test_without_ramping_surfacing_changes_nothing_for_the_enemies(self):
        state = self.poked(y=1, ramp_level=1).set(divers=3).one()
        fields = "divers", "enemy_interval", "move_interval", "ramp_level"
        assert without_ramping("seaquest", *fields)(state, UP) == [2, 20, 5, 1]


class TestLayer:
    """What lies around every game."""

    def test_a_sticky_step_executes_the_stored_action_which_outlives_the_episode(self):
        game = make_game("breakout", minimal_actions=True)
        assert (game.num_actions, game.step_draws) == (3, 1)
        step = jax.jit(game.step)
        state = game.start(jnp.zeros(1))
        columns = []
        for index, draw in [(2, 0.5), (1, 0.09), (0, 0.05), (1, 0.1)]:
            state, *_ = step(state, np.int32(index), np.float32([draw]))
            columns.append((int(state.game.paddle), int(state.last_action)))
        assert columns == [(5, RIGHT), (6, RIGHT), (7, RIGHT), (6, LEFT)]
        state = game.restart(state._replace(over=jnp.ones((), bool)), jnp.ones(1))
        assert (int(state.game.paddle), int(state.game.x), bool(state.over)) == (4, 9, False)
        state, *_ = step(state, np.int32(0), np.float32([0.09]))
        assert int(state.game.paddle) == 3

    def test_a_step_after_the_end_moves_the_stored_action_only(self):
        play = Play("breakout", 0.0, x=3, y=8, paddle=0)
        assert play.step(FIRE) == (0, True)
        over = play.state
        assert play.step(RIGHT) == (0, True)
        assert (np.asarray(play.state.last_action) == RIGHT).all()
        expected = over._replace(last_action=play.state.last_action)
        jax.tree.map(np.testing.assert_array_equal, play.state, expected)

    def test_indices_are_those_of_the_minimal_actions(self):
        for name, actions in {
            "asterix": [NOTHING, LEFT, UP, RIGHT, DOWN],
            "breakout": [NOTHING, LEFT, RIGHT],
            "freeway": [NOTHING, UP, DOWN],
            "seaquest": [NOTHING, LEFT, UP, RIGHT, DOWN, FIRE],
            "space_invaders": [NOTHING, LEFT, RIGHT, FIRE],
        }.items():
            game = make_game(name)
            assert game.num_actions == len(actions)
            state, draws = game.start(jnp.zeros(game.start_draws)), jnp.ones(game.step_draws)

            def execute(index, game=game, state=state, draws=draws):
                return game.step(state, index, draws)[0].last_action

            executed = jax.jit(jax.vmap(execute))  # of the layer alone, nothing else is compiled
            assert executed(np.arange(len(actions), dtype=np.int32)).tolist() == actions
            assert make_game(name, minimal_actions=False).num_actions == 6


# Of a uniformly random policy over the six actions with the package: mean return and length of an
# episode, and how far from them these few episodes may be.
RANDOM_POLICY = {
    "asterix": (0.48, 69, 0.4),
    "breakout": (0.53, 11.4, 0.2),
    "freeway": (0.08, 2501, 5.0),
    "seaquest": (0.099, 30.3, 0.5),
    "space_invaders": (2.79, 51, 0.3),
}


class Played(NamedTuple):
    """Random actions in 16 environments, each begun anew when it is over."""

    start: NamedTuple  # states
    inputs: tuple  # [T, 16, ...] actions, draws and restart draws
    reward: np.ndarray  # [T, 16]
    over: np.ndarray  # [T, 16]
    last: NamedTuple  # states


@functools.cache
def randomly_played(name):
    game, step = compiled(name)
    steps = 2501 if name == "freeway" else 1000
    numbers = 1 + game.step_draws + game.start_draws
    key = jax.random.key(0, impl="rbg")
    uniform = np.asarray(jax.random.uniform(key, (steps, LANES, numbers)))
    actions = (6 * uniform[..., 0]).astype(np.int32)
    draws, restart_draws = np.split(uniform[..., 1:], [game.step_draws], axis=-1)
    start = state = jax.vmap(game.start)(jnp.asarray(restart_draws[0]))
    out = []
    for row in zip(actions, draws, restart_draws, strict=True):
        state, reward, over, _ = step(state, *row, np.bool_(True))
        out.append((reward, over))
    reward, over = (np.asarray(jax.device_get(x)) for x in zip(*out, strict=True))
    return Played(start, (actions, draws, restart_draws), reward, over, state)


@pytest.mark.parametrize("name", NAMES)
def test_a_random_policy_gets_what_it_gets_in_the_package(name):
    played = randomly_played(name)
    expected, length, share = RANDOM_POLICY[name]
    episodes = played.over.sum()
    assert played.reward.sum() / episodes == pytest.approx(expected, rel=share)
    assert played.over.size / episodes == pytest.approx(length, rel=share)


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_among_many_does_what_it_does_alone(name):
    played, (game, step), lane = randomly_played(name), compiled(name), 3
    state = many(jax.tree.map(lambda x: x[lane], played.start))
    for t, row in enumerate(zip(*(x[:, lane] for x in played.inputs), strict=True)):
        rows = (np.stack([x] * LANES) for x in row)
        state, reward, over, seen = step(state, *rows, np.bool_(True))
        assert (np.asarray(reward) == played.reward[t, lane]).all()
        assert (np.asarray(over) == played.over[t, lane]).all()
    last = many(jax.tree.map(lambda x: x[lane], played.last))
    jax.tree.map(np.testing.assert_array_equal, state, last)
    assert seen.dtype == bool
    assert seen.shape == (LANES, *game.observation_shape)
    assert step._cache_size() == 1


# The package as an oracle: it plays first, and its random numbers are recorded and played again.

CHUNK = 1000  # steps of one comparison
KEEP, RESTART, REVIVE = range(3)  # what is done with an episode that is over


class Recorder:
    """A random generator as the package calls it, which writes down what it gives as uniforms."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.log = []

    def rand(self, *shape):
        value = self.random.random(shape or (), np.float32)
        self.log.extend(np.ravel(value).tolist())
        return float(value) if shape == () else value.astype(float)

    def randint(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        value = self.random.integers(low, high, size)
        self.log.extend(((np.ravel(value) - low + 0.5) / (high - low)).tolist())
        return value

    def take(self):
        log, self.log = self.log, []
        return log


class Record(NamedTuple):
    """What the package did in a chunk; `after` is what was done then with an ended episode."""

    action: np.ndarray  # [T]
    draws: np.ndarray  # [T, D]
    after: np.ndarray  # [T]
    restart_draws: np.ndarray  # [T, S]
    used: np.ndarray  # [T], how many draws the package has taken
    observation: np.ndarray  # [T, 10, 10, C]
    reward: np.ndarray  # [T]
    over: np.ndarray  # [T]
    seen: np.ndarray  # [T, K], numbers of the game that do not stand in the observation


def policy(name, env, random):
    """An action that gets far into a game."""
    inner = env.env
    match name:
        case "breakout":
            return RIGHT if inner.ball_x > inner.pos else LEFT if inner.ball_x < inner.pos else 0
        case "freeway":
            return UP
        case "space_invaders":
            return FIRE
        case "seaquest":
            if inner.diver_count >= 6 or (inner.oxygen < 30 and inner.diver_count):
                return UP
            if not inner.divers:
                return DOWN if inner.sub_y < 4 else FIRE
            x, y = inner.divers[0][:2]
            if y != inner.sub_y:
                return DOWN if y > inner.sub_y else UP
            return RIGHT if x > inner.sub_x else LEFT
    return random.integers(6)


def seen_by_the_package(name, inner):
    match name:
        case "asterix":
            return inner.spawn_speed, inner.move_speed, inner.ramp_index, inner.spawn_timer
        case "breakout":
            return inner.ball_dir % 3 == 0, inner.ball_dir < 2, inner.strike, inner.brick_map.sum()
        case "freeway":
            return inner.pos, inner.move_timer, inner.terminate_timer
        case "seaquest":
            return (
                *(inner.oxygen, inner.diver_count, inner.e_spawn_speed, inner.move_speed),
                *(inner.ramp_index, inner.surface, inner.shot_timer, inner.e_spawn_timer),
                *(inner.d_spawn_timer, len(inner.e_fish), len(inner.e_subs), len(inner.divers)),
            )
        case "space_invaders":
            return (
                *(inner.enemy_move_interval, inner.alien_move_timer, inner.alien_shot_timer),
                inner.shot_timer,
            )


def seen_by_us(name, s):
    match name:
        case "asterix":
            values = s.spawn_interval, s.move_interval, s.ramp_level, s.spawn_countdown
        case "breakout":
            bricks = jax.lax.population_count(s.bricks)
            values = s.velocity_x < 0, s.velocity_y < 0, s.struck, bricks
        case "freeway":
            values = s.row, s.cooldown, s.budget
        case "seaquest":
            submarine = (s.enemy_submarine >> jnp.arange(s.enemy_cell.size, dtype=jnp.uint32)) & 1
            here = s.enemy_cell != GONE
            values = (
                *(s.oxygen, s.divers, s.enemy_interval, s.move_interval),
                *(s.ramp_level, s.surfaced, s.cooldown, s.enemy_countdown),
                *(s.diver_countdown, jnp.sum(here & (submarine == 0))),
                *(jnp.sum(here & (submarine == 1)), jnp.sum(s.diver_cell != GONE)),
            )
        case "space_invaders":
            values = s.interval, s.alien_countdown, s.bomb_countdown, s.cooldown
    return jnp.stack([jnp.asarray(value, jnp.int32) for value in values])


def revive_the_package(name, inner):
    inner.terminal = False
    if name == "breakout":
        inner.ball_y, inner.ball_dir = 8, 3 - inner.ball_dir
    if name == "seaquest" and inner.oxygen <= 0:
        inner.oxygen = 200
    if name == "freeway":
        inner.terminate_timer = 2500


def revive_ours(name, state):
    s = state.game
    if name == "breakout":
        s = s._replace(y=jnp.int32(8), velocity_y=jnp.int32(-1))
    if name == "seaquest":
        s = s._replace(oxygen=jnp.where(s.oxygen <= 0, 200, s.oxygen))
    if name == "freeway":
        s = s._replace(budget=jnp.int32(2500))
    return state._replace(game=s, over=jnp.zeros((), bool))


def draws_of(name, log, size, spare):
    """Recorded numbers of a step [`size`] where the game expects them, and others elsewhere."""
    draws = spare.copy()
    first = 4 if name == "seaquest" and len(log) == 3 else 1  # a diver without an enemy
    draws[0] = log[0]
    draws[first : first + len(log) - 1] = log[1:]
    assert len(draws) == size
    return draws


class Original:
    """One environment of the package that plays on, a chunk at a time.

    A share of the actions is skilled. An ended episode is revived if `deep`, else it is left as it
    is for some steps and begun anew.
    """

    def __init__(self, minatar, name, ramping, seed, skill, deep):
        self.game = make_game(name, ramping=ramping, minimal_actions=False)
        self.name, self.skill, self.deep = name, skill, deep
        self.random, self.recorder = np.random.default_rng(seed), Recorder(seed)
        self.env = minatar.Environment(name, difficulty_ramping=ramping)
        self.env.random = self.env.env.random = self.recorder
        self.env.reset()
        self.start_draws = np.asarray(self.recorder.take(), np.float32)

    def play(self):
        columns = zip(*(self.step() for _ in range(CHUNK)), strict=True)
        return Record(*(np.asarray(column) for column in columns))

    def step(self):
        env, name, random = self.env, self.name, self.random
        skilled = random.random() < self.skill
        action = np.int32(policy(name, env, random) if skilled else random.integers(6))
        reward, over = env.act(action)
        log = self.recorder.take()
        draws = random.random(self.game.step_draws, np.float32)  # those that are not used stay
        first = 4 if name == "seaquest" and len(log) == 3 else 1  # a diver without an enemy
        draws[0], draws[first : first + len(log) - 1] = log[0], log[1:]
        observation, seen = env.state(), np.asarray(seen_by_the_package(name, env.env), int)
        after, restart_draws = KEEP, random.random(self.game.start_draws, np.float32)
        if over and self.deep:
            after = REVIVE
            revive_the_package(name, env.env)
        elif over and random.random() < 0.5:
            after = RESTART
            env.reset()
            restart_draws[:] = self.recorder.take()
        return action, draws, after, restart_draws, len(log), observation, reward, over, seen


@functools.cache
def replayer(name, ramping):
    """The compiled program that plays a record again, `(state, actions, draws, after, draws) ->
    (state, (how many draws should be used, observation, reward, end, what is seen))`."""
    game = make_game(name, ramping=ramping, minimal_actions=False)

    def used(before, reward):
        s = before.game
        more = {
            "asterix": lambda: jnp.where(s.spawn_countdown == 0, 2 + jnp.any(s.thing[1:9] < 0), 0),
            "freeway": lambda: 16 * (reward > 0),
            "seaquest": lambda: 3 * (s.enemy_countdown == 0) + 2 * (s.diver_countdown == 0),
        }
        return 1 + jnp.where(before.over, 0, more.get(name, lambda: 0)())

    def body(state, row):
        action, draws, after, restart_draws = row
        new, reward, over = game.step(state, action, draws)
        out = used(state, reward), game.observe(new), reward, over, seen_by_us(name, new.game)
        choices = new, game.restart(new, restart_draws), revive_ours(name, new)
        return jax.tree.map(lambda *x: jax.lax.select_n(after, *x), *choices), out

    return game, jax.jit(lambda state, *rows: jax.lax.scan(body, state, rows))


def compare(minatar, name, ramping, seed, skill, deep, chunks):
    """Compares each step of some chunks; what was seen in them [T, K]."""
    original = Original(minatar, name, ramping, seed, skill, deep)
    game, replay = replayer(name, ramping)
    state = game.start(original.start_draws)
    seen = []
    for chunk in range(chunks):
        played = original.play()
        state, ours = replay(state, *played[:4])
        ours = [np.asarray(column) for column in ours]
        theirs = played[4:]
        assert ours[1].dtype == bool
        wrong = [
            (mine != its).reshape(CHUNK, -1).any(axis=1)
            for mine, its in zip(ours, theirs, strict=True)
        ]
        for t in np.flatnonzero(np.any(wrong, axis=0))[:1]:  # the first one says most
            for mine, its in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(mine[t], its[t], f"step {chunk * CHUNK + t}")
        seen.append(np.concatenate([played.seen, played.reward[:, None]], axis=1))
    return np.concatenate(seen)


@pytest.fixture(scope="module")
def minatar():
    return pytest.importorskip(
        "minatar", reason="the original games are no dependency: uv run --with minatar pytest ..."
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_step_is_that_of_the_package(minatar, name):
    for seed, (skill, deep) in enumerate([(0.0, False), (0.0, True), (0.9, True)]):
        compare(minatar, name, ramping=True, seed=seed, skill=skill, deep=deep, chunks=1)


# How far the long comparison has to get: column of what is seen, and its lowest value. All
# intervals at their shortest, no brick left, the end of Freeway's time, the count after a rescue.
REACHED = {
    "asterix": {0: 1, 1: 1},
    "breakout": {3: 0},
    "freeway": {2: -1},
    "seaquest": {1: -1, 2: 1, 3: 2},
    "space_invaders": {0: 6},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_100_000_steps_are_those_of_the_package(minatar, name):
    settings = [
        (ramping, skill, deep)
        for ramping in ((True, False) if name in RAMPING else (True,))
        for skill in (0.0, 0.5, 0.9)
        for deep in (False, True)
    ]
    chunks = -(-100 // len(settings))
    seen = np.concatenate(
        [
            compare(minatar, name, ramping, seed, skill, deep, chunks)
            for seed, (ramping, skill, deep) in enumerate(settings)
        ]
    )
    for column, value in REACHED[name].items():
        assert seen[:, column].min() <= value
