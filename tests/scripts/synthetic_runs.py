"""Run folders as `bmg train` leaves them, of trainings that never took place."""

import json
import math

from configs.load import dump, load

_TOTAL = 200_000_000
_PROTOCOL = {
    "suite": "atari",
    "ale_py": "0.12.0",
    "frame_skip": 4,
    "sticky_actions": 0.0,
    "noop_max": 30,
    "action_set": "minimal",
    "max_episode_frames": 108_000,
}
_VERSIONS = {"bmg": "0.1.0", "jax": "0.10.2"}


def write_run(
    folder,
    algorithm,
    game,
    seed,
    final,
    *,
    lines=40,
    status="finished",
    reached=1.0,
    overrides=(),
    versions=(),
    filling=0,
    **protocol,
):
    """A run whose return grows and ends at `final`.

    Args:
        folder: is created.
        algorithm: names the configuration atari/ALGORITHM, and the run.
        game: one of the 57.
        seed: of the run.
        final: training return of its last twentieth.
        lines: of metrics.jsonl.
        status: of summary.json.
        reached: share of the frames that the run has.
        overrides: of the configuration.
        versions: of packages that differ.
        filling: other numbers in each line, as real ones have.
        protocol: facts that differ.
    """
    folder.mkdir(parents=True)
    settings = (f"env.game={game}", f"seed={seed}", f"name={algorithm}", *overrides)
    config = load(f"atari/{algorithm}", settings)
    (folder / "config.yaml").write_text(dump(config))
    rest = "".join(f', "loss/number_{i}": {0.1234567890123 + i}' for i in range(filling))
    written = []
    for line in range(1, lines + 1):
        share = reached * line / lines
        value = final * min(1.0, share / 0.9) if share < 1 else final
        frames = int(_TOTAL * share)
        learned = 0.99 + 0.004 * math.sin(6 * share + seed)
        written.append(
            f'{{"frames": {frames}, "seconds": {frames / 27_000:.3f}, '
            f'"frames_per_second": 27000.0, "episode_return": {value!r}, '
            f'"learner_updates": {frames // 480}, "meta/discount": {learned!r}, '
            f'"meta/entropy_cost": {0.01 * learned!r}{rest}}}\n'
        )
    (folder / "metrics.jsonl").write_text("".join(written))
    summary = {
        **json.loads(written[-1]),
        "status": status,
        "name": algorithm,
        "algorithm": algorithm,
        "seed": seed,
        "total_frames": _TOTAL,
        "protocol": {**_PROTOCOL, "game": game, **protocol},
        "versions": {**_VERSIONS, **dict(versions)},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
