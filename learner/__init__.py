"""How it learns: update rules, the jitted step, the loop, checkpoints and the run folder."""
