"""Compares what runs have left behind, bit for bit."""

import json

import numpy as np
import orbax.checkpoint as ocp

from learner.checkpoint import Checkpoints


def last_checkpoint(folder):
    """State of the newest checkpoint, and its progress but for what tells the time."""
    checkpoints = Checkpoints(folder / "checkpoints", 3)
    newest = folder / "checkpoints" / str(checkpoints.versions()[-1])
    progress = json.loads((newest / "progress.json").read_text())
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore((newest / "state").absolute())
    return state, {k: progress[k] for k in ("frames", "env_steps", "updates", "episodes", "recent")}


def equal(a, b):
    """Whether two trees of arrays are the same."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a is b or np.array_equal(np.asarray(a), np.asarray(b))
