"""The 57 Atari games: actions, and the scores that normalise an agent's.

Random and human scores: 30 random no-ops, 108,000 frames an episode (as in DQN Zoo's table).
"""

from typing import NamedTuple


class Game(NamedTuple):
    """One game by ale-py's name for it."""

    name: str
    actions: int  # of the minimal action set; the full set has 18 (Skiing's has 9)
    random_score: float
    human_score: float


GAMES = (
    Game("alien", 18, 227.8, 7127.7),
    Game("amidar", 10, 5.8, 1719.5),
    Game("assault", 7, 222.4, 742.0),
    Game("asterix", 9, 210.0, 8503.3),
    Game("asteroids", 14, 719.1, 47388.7),
    Game("atlantis", 4, 12850.0, 29028.1),
    Game("bank_heist", 18, 14.2, 753.1),
    Game("battle_zone", 18, 2360.0, 37187.5),
    Game("beam_rider", 9, 363.9, 16926.5),
    Game("berzerk", 18, 123.7, 2630.4),
    Game("bowling", 6, 23.1, 160.7),
    Game("boxing", 18, 0.1, 12.1),
    Game("breakout", 4, 1.7, 30.5),
    Game("centipede", 18, 2090.9, 12017.0),
    Game("chopper_command", 18, 811.0, 7387.8),
    Game("crazy_climber", 9, 10780.5, 35829.4),
    Game("defender", 18, 2874.5, 18688.9),
    Game("demon_attack", 6, 152.1, 1971.0),
    Game("double_dunk", 18, -18.6, -16.4),
    Game("enduro", 9, 0.0, 860.5),
    Game("fishing_derby", 18, -91.7, -38.7),
    Game("freeway", 3, 0.0, 29.6),
    Game("frostbite", 18, 65.2, 4334.7),
    Game("gopher", 8, 257.6, 2412.5),
    Game("gravitar", 18, 173.0, 3351.4),
    Game("hero", 18, 1027.0, 30826.4),
    Game("ice_hockey", 18, -11.2, 0.9),
    Game("jamesbond", 18, 29.0, 302.8),
    Game("kangaroo", 18, 52.0, 3035.0),
    Game("krull", 18, 1598.0, 2665.5),
    Game("kung_fu_master", 14, 258.5, 22736.3),
    Game("montezuma_revenge", 18, 0.0, 4753.3),
    Game("ms_pacman", 9, 307.3, 6951.6),
    Game("name_this_game", 6, 2292.3, 8049.0),
    Game("phoenix", 8, 761.4, 7242.6),
    Game("pitfall", 18, -229.4, 6463.7),
    Game("pong", 6, -20.7, 14.6),
    Game("private_eye", 18, 24.9, 69571.3),
    Game("qbert", 6, 163.9, 13455.0),
    Game("riverraid", 18, 1338.5, 17118.0),
    Game("road_runner", 18, 11.5, 7845.0),
    Game("robotank", 18, 2.2, 11.9),
    Game("seaquest", 18, 68.4, 42054.7),
    Game("skiing", 3, -17098.1, -4336.9),
    Game("solaris", 18, 1236.3, 12326.7),
    Game("space_invaders", 6, 148.0, 1668.7),
    Game("star_gunner", 18, 664.0, 10250.0),
    Game("surround", 5, -10.0, 6.5),
    Game("tennis", 18, -23.8, -8.3),
    Game("time_pilot", 10, 3568.0, 5229.2),
    Game("tutankham", 8, 11.4, 167.6),
    Game("up_n_down", 6, 533.4, 11693.2),
    Game("venture", 18, 0.0, 1187.5),
    Game("video_pinball", 9, 16256.9, 17667.9),
    Game("wizard_of_wor", 10, 563.5, 4756.5),
    Game("yars_revenge", 18, 3092.9, 54576.9),
    Game("zaxxon", 18, 32.5, 9173.3),
)
BY_NAME = {game.name: game for game in GAMES}


def human_normalised_score(name: str, score: float) -> float:
    """0 is random play, 1 the human tester: (score - random) / (human - random).

    Raises:
        KeyError: not one of the 57 games.
    """
    game = BY_NAME[name]
    return (score - game.random_score) / (game.human_score - game.random_score)
