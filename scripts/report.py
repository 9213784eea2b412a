"""`bmg report`: figures and tables from run folders alone."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from agents.hyperparameters import HYPERPARAMETERS
from configs.load import ConfigError


class Run(NamedTuple):
    """What a run folder says."""

    path: Path
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]  # by policy
    setting: str  # the configuration but for its seed; runs of one setting may be averaged


def read_run(path: Path) -> Run:
    """Reads a run folder.

    Raises:
        ConfigError: it holds no metrics.
    """
    file = path / "metrics.jsonl"
    if not file.is_file():
        raise ConfigError(f"{path} holds no run (no metrics.jsonl); give run folders")
    metrics = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    if not metrics:
        raise ConfigError(f"{file} is empty: the run has logged nothing yet")
    summary_file = path / "summary.json"
    summary = json.loads(summary_file.read_text()) if summary_file.is_file() else {}
    evaluations = {}
    for file in sorted(path.glob("evaluation*.json")):
        evaluation = json.loads(file.read_text())
        evaluations[evaluation["policy"]] = evaluation
    return Run(path, metrics, summary, evaluations, _setting(path))


def _setting(path: Path) -> str:
    file = path / "config.yaml"
    if not file.is_file():
        return str(path)
    text = file.read_text().splitlines()
    return "\n".join(line for line in text if not line.startswith("seed:"))


def report(run_dirs: list[str], out: str | None) -> int:
    """Writes figures and tables: of runs of several seeds by `seed_report`, of others by this file.

    Raises:
        ConfigError: a folder holds no run, or the output cannot be written.
    """
    from scripts import seed_report, seed_runs  # which import this module

    paths = [Path(run_dir) for run_dir in run_dirs]
    of_seeds = [path for path in paths if (path / seed_runs.SEEDS_FILE).is_file()]
    groups = seed_runs.pool([seed_runs.read(path) for path in of_seeds])
    runs = [read_run(path) for path in paths if path not in of_seeds]
    folder = Path(out) if out else (paths[0] if len(paths) == 1 else Path("report"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from None
    written = []
    if groups:
        written += seed_report.report_seeds(groups, folder, "seeds_table" if runs else "table")
    if runs:
        written += _report_runs(runs, folder)
    print(", ".join(str(folder / name) for name in written))
    return 0


def _report_runs(runs: list[Run], folder: Path) -> list[str]:
    """Writes curve.png, table.md and table.csv, and hyperparameters.png where some were learned."""
    draw_curves(runs, folder / "curve.png")
    written = ["curve.png"]
    if draw_hyperparameters(runs, folder / "hyperparameters.png"):
        written.append("hyperparameters.png")
    write_tables([_row(run) for run in runs], folder, "table")
    return [*written, "table.md", "table.csv"]


def draw_curves(runs: list[Run], file: Path) -> None:
    """Mean return of the recent episodes against frames, with reference scores."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.5), constrained_layout=True)
    _draw(axes, runs, "episode_return")
    games = {run.summary.get("protocol", {}).get("game") for run in runs}
    if len(games) == 1 and (random := runs[0].evaluations.get("random")):
        axes.axhline(random["mean_return"], color="grey", linestyle="--", label="random play")
    axes.set_ylabel("episode return (mean of the last 100)")
    axes.set_title(", ".join(sorted(str(game) for game in games)))
    axes.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def draw_hyperparameters(runs: list[Run], file: Path) -> bool:
    """Each learned hyper-parameter against frames; the acting head solid, auxiliary ones dashed.

    Returns:
        Whether there was anything to draw: some run has learned or replayed hyper-parameters.
    """
    names = [
        name for name in HYPERPARAMETERS if any(f"meta/{name}" in run.metrics[-1] for run in runs)
    ]
    if not names:
        return False
    plt = pyplot()
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 2.6 * rows), constrained_layout=True, squeeze=False
    )
    for panel, name in zip(panels.flat, names, strict=False):
        _draw(panel, runs, f"meta/{name}")
        for head in range(1, 17):
            _draw(panel, runs, f"meta/auxiliary_{head}/{name}", linestyle="--")
        panel.set_title(name)
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    panels.flat[0].legend(fontsize="x-small")
    figure.savefig(file, dpi=120)
    plt.close(figure)
    return True


def pyplot() -> Any:
    """`matplotlib.pyplot`, drawing into files only."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _draw(axes: Any, runs: list[Run], key: str, linestyle: str = "-") -> None:
    """A metric against frames: runs of one name share a colour and, over all of them, a mean."""
    import numpy as np
    from matplotlib.ticker import EngFormatter

    for index, (name, members) in enumerate(_groups(runs).items()):
        curves = []
        for run in members:
            points = [(m["frames"], m[key]) for m in run.metrics if m.get(key) is not None]
            if points:
                curves.append((run, *np.asarray(points, float).T))
        style = {"color": f"C{index}", "linestyle": linestyle}
        thin = {"alpha": 0.3, "linewidth": 0.8} if len(curves) > 1 else {}
        for run, frames, values in curves:
            seed = run.summary.get("seed", "?")
            label = None if thin else f"{name}, seed {seed}"
            axes.plot(frames, values, label=label if linestyle == "-" else None, **style, **thin)
        if thin:  # the mean goes as far as all of them do
            start, end = max(c[1][0] for c in curves), min(c[1][-1] for c in curves)
            grid = np.linspace(start, end, 200)
            mean = np.mean([np.interp(grid, frames, values) for _, frames, values in curves], 0)
            label = f"{name}, mean of {len(curves)} seeds"
            axes.plot(grid, mean, label=label if linestyle == "-" else None, **style)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("environment frames")
    axes.grid(alpha=0.3)


def _groups(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but their seeds, under a label that no others have."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    labelled: dict[str, list[Run]] = {}
    for members in groups.values():
        first = members[0]
        name = str(first.summary.get("name", first.path.name))
        label = name if name not in labelled else f"{name} ({first.path.name})"
        labelled[label] = members
    return labelled


def _row(run: Run) -> dict[str, Any]:
    last = run.metrics[-1]
    row = {
        "run": run.path.name,
        "game": run.summary.get("protocol", {}).get("game"),
        "seed": run.summary.get("seed"),
        "status": run.summary.get("status"),
        "frames": last["frames"],
        "hours": round(last["seconds"] / 3600, 2),
        "training return": _rounded(last["episode_return"]),
    }
    for policy in ("sample", "random"):
        evaluation = run.evaluations.get(policy)
        text = None
        if evaluation:
            text = f"{evaluation['mean_return']:.2f}"
            if evaluation["standard_error"] is not None:
                text += f" +- {evaluation['standard_error']:.2f}"
        row["evaluation" if policy == "sample" else "random play"] = text
    return row


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def write_tables(rows: list[dict[str, Any]], folder: Path, name: str) -> None:
    """Writes the same rows as Markdown and as CSV; an empty cell is a dash in Markdown."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        cells = ["-" if row[name] is None else str(row[name]) for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n")
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
