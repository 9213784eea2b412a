"""`bmg report`: figures and tables from run folders alone."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from configs.load import ConfigError


class Run(NamedTuple):
    """What a run folder says."""

    path: Path
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]  # by policy


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
    return Run(path, metrics, summary, evaluations)


def report(run_dirs: list[str], out: str | None) -> int:
    """Writes curve.png, table.md and table.csv.

    Raises:
        ConfigError: a folder holds no run, or the output cannot be written.
    """
    runs = [read_run(Path(run_dir)) for run_dir in run_dirs]
    folder = Path(out) if out else (runs[0].path if len(runs) == 1 else Path("report"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from None
    draw_curves(runs, folder / "curve.png")
    rows = [_row(run) for run in runs]
    write_tables(rows, folder)
    print(f"{folder / 'curve.png'}, {folder / 'table.md'}, {folder / 'table.csv'}")
    return 0


def draw_curves(runs: list[Run], file: Path) -> None:
    """Mean return of the recent episodes against frames, a line a run, with reference scores."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter

    figure, axes = plt.subplots(figsize=(8, 4.5), constrained_layout=True)
    for run in runs:
        points = [(m["frames"], m["episode_return"]) for m in run.metrics if _scored(m)]
        label = f"{run.summary.get('name', run.path.name)}, seed {run.summary.get('seed', '?')}"
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    games = {run.summary.get("protocol", {}).get("game") for run in runs}
    if len(games) == 1 and (random := runs[0].evaluations.get("random")):
        axes.axhline(random["mean_return"], color="grey", linestyle="--", label="random play")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel("environment frames")
    axes.set_ylabel("episode return (mean of the last 100)")
    axes.set_title(", ".join(sorted(str(game) for game in games)))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _scored(metrics: dict[str, Any]) -> bool:
    return metrics.get("episode_return") is not None


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


def write_tables(rows: list[dict[str, Any]], folder: Path) -> None:
    """Writes the same rows as Markdown and as CSV; an empty cell is a dash in Markdown."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row in rows:
        cells = ["-" if row[name] is None else str(row[name]) for name in columns]
        lines.append(f"| {' | '.join(cells)} |")
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
