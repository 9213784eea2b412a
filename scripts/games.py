"""`bmg games`: the 57 games."""

from rich.console import Console
from rich.table import Table

from actors.environments.atari_games import GAMES


def games() -> int:
    """Prints each game's actions and the scores that normalise an agent's."""
    table = Table(title="57 Atari games (30 no-ops, 108,000 frames an episode)")
    table.add_column("game")
    for heading in ("actions", "random", "human"):
        table.add_column(heading, justify="right")
    for game in GAMES:
        table.add_row(
            game.name,
            str(game.actions),
            f"{game.random_score:,.1f}",
            f"{game.human_score:,.1f}",
        )
    Console().print(table)
    return 0
