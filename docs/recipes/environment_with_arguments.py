"""Environments of Gymnasium with keyword arguments: each combination is an id of its own.

In the folder of this file:

    uv run bmg train catch/impala env.suite=gymnasium env.game=environment_with_arguments:DryLake-v0

The id stands in the run folder, so that runs, tables and evaluations of other arguments stay apart.
"""

import gymnasium

_LAKE = "gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv"

gymnasium.register("DryLake-v0", _LAKE, max_episode_steps=100, kwargs={"is_slippery": False})
for size in (4, 8):
    gymnasium.register(
        f"SlipperyLake{size}-v0",
        _LAKE,
        max_episode_steps=100,
        kwargs={"map_name": f"{size}x{size}", "is_slippery": True},
    )
