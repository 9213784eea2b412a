"""The machine that learns: the jitted step, the loop, replay, checkpoints and the run folder."""
