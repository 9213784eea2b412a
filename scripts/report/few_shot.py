"""Figures and tables of few-shot learning: section 6 of Flennerhag et al. 2021.

Shapes: `S` seeds, `N` points, each of the state at its end.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.load import ConfigError
from learner.reading import Unreadable, is_number, read_metrics, read_object, read_summary
from scripts.report.figures import (
    STYLE,
    WIDTH,
    Written,
    files_of,
    label_steps,
    line_style,
    pyplot,
    save,
)
from scripts.report.runs import SEEDS, read_config, read_curves, shown
from scripts.report.seed_statistics import Interval, mean_interval
from scripts.report.tables import write_tables

_PREFIX = "validation/"
_COSINE = "meta/cosine"
_LOSS = re.compile(rf"{_PREFIX}query_loss_after_\d+")
_SMOOTHED = 5  # points of a running mean before levels are compared
_LAST = 0.1  # share of a run whose mean is its final value


class TaskRun(NamedTuple):
    """What the folder of a run of few-shot learning says."""

    path: Path
    config: dict[str, Any]  # flat, completed
    status: str
    tasks: np.ndarray  # [N], that each seed has learned at the end of each point
    seconds: np.ndarray  # [N], of all seeds together
    curves: dict[str, np.ndarray]  # [S, N]
    tested: dict[str, str]  # of test tasks, columns of the table; {} where there are none
    faults: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Of its configuration and its folder."""
        name = shown(self.config.get("name", "run"))
        return name if name in self.path.name else f"{name}: {shown(self.path.name)}"

    @property
    def problem(self) -> str:
        """What its tasks are; those of different problems are not compared."""
        get = self.config.get
        game, shots = shown(get("env.game")), get("few_shot.shots")
        return (
            f"{game}, {shots} shots"
            if get("few_shot.ways") == 1
            else (f"{game}, {get('few_shot.ways')}-way {shots}-shot")
        )

    @property
    def steps(self) -> np.ndarray:
        """Meta-steps [N] at the end of each point."""
        return self.tasks / max(int(self.config.get("learner.batch_size") or 1), 1)

    @property
    def measure(self) -> str:
        """The curve by which it is judged: after as many gradient steps as it is trained for."""
        trained = self.config.get("meta.inner_steps")
        classes = any(name.startswith(f"{_PREFIX}accuracy_after_") for name in self.curves)
        kind = "accuracy" if classes else "query_loss"
        after = [name for name in self.curves if name.startswith(f"{_PREFIX}{kind}_after_")]
        own = f"{_PREFIX}{kind}_after_{trained}"
        return own if own in after else min(after, key=lambda name: (len(name), name))


def holds_tasks(path: Path) -> bool:
    """Whether a run folder with a seeds.npz is of few-shot learning."""
    try:
        return read_config(path)[0].get("env.suite") == "few_shot"
    except ConfigError:
        return False


def read(path: Path) -> TaskRun:
    """Reads a run folder.

    Raises:
        ConfigError: a file of it is missing, damaged or empty.
    """
    file = path / SEEDS
    try:
        arrays = {name: np.asarray(x, np.float64) for name, x in read_curves(path).items()}
    except (TypeError, ValueError):  # texts, say
        raise ConfigError(f"{file} cannot be read: it is damaged or empty") from None
    tasks, seeds = (arrays.get(name, np.zeros(0)) for name in ("frames", "seeds"))
    names = [name for name in arrays if name.startswith(_PREFIX) or name == _COSINE]
    if not tasks.size or not any(_LOSS.fullmatch(name) for name in names):
        raise ConfigError(f"{file} is empty: the run has logged no point yet")
    wrong = any(arrays[name].shape != (seeds.size, tasks.size) for name in names)
    if tasks.ndim != 1 or seeds.ndim != 1 or wrong or not (np.diff(tasks, prepend=0) > 0).all():
        raise ConfigError(f"{file} is damaged: its curves are of unlike lengths")
    config, faults = read_config(path)
    summary, more = read_summary(path)
    lines, unread = read_metrics(path)
    tested, unusable = _tested(path, several=seeds.size > 1)
    return TaskRun(
        path,
        config,
        summary.get("status", "unfinished"),
        tasks,
        np.interp(tasks, *_clock(lines)),
        {name: arrays[name] for name in names},
        tested,
        (*faults, *more, *unread, *unusable),
    )


def _clock(lines: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Tasks and seconds of the lines of metrics, and of the start, without its compilation.

    The first line's stretch is taken to last as long as the others of its length.
    """
    timed = [line for line in lines if is_number(line.get("seconds"))]
    known = [(line["frames"], line["seconds"]) for line in timed]
    tasks, seconds = np.asarray([(0.0, 0.0), *known], np.float64).T
    if len(known) > 2:
        paces = np.diff(seconds)[1:] / np.maximum(np.diff(tasks)[1:], 1.0)
        seconds[1:] += np.median(paces) * tasks[1] - seconds[1]
    return tasks, seconds


def _tested(path: Path, *, several: bool) -> tuple[dict[str, str], list[str]]:
    """Means over test tasks with their intervals by number of gradient steps; and what is wrong."""
    file = path / "evaluation.json"
    try:
        evaluation = read_object(file)
    except FileNotFoundError:
        return {}, []
    except Unreadable as error:
        return {}, [str(error)]
    kind = "accuracy" if "accuracy" in evaluation else "query_loss"
    over = "interval_over_seeds" if several else "interval"
    told = {}
    try:
        for result in evaluation[kind]:
            low, high = result[over]
            text = f"{result['mean']:.4f} ({low:.4f} to {high:.4f})"
            told[f"test {kind} after {result['steps']:d}"] = text
    except (KeyError, TypeError, ValueError):
        return {}, [f"{file} holds something else than an evaluation of tasks"]
    return told, []


def report_tasks(runs: list[TaskRun], folder: Path, table: str) -> Written:
    """Draws all figures, writes the table, and tells which runs were cut short.

    Args:
        runs: at least one.
        folder: exists.
        table: name of the table's files, without their endings.
    """
    for run in runs:
        if run.status != "finished":
            print(f"{run.label}: {run.status}")
    problems = {run.problem: [r for r in runs if r.problem == run.problem] for run in runs}
    stems, rows = list[str](), list[dict[str, Any]]()
    with pyplot().rc_context(STYLE):
        for number, (problem, members) in enumerate(problems.items()):
            suffix = f"_{number + 1}" if len(problems) > 1 else ""
            stems.append(f"few_shot{suffix}")
            draw_curves(problem, members, folder / stems[-1])
            if any(_COSINE in run.curves for run in members):
                stems.append(f"cosine{suffix}")
                draw_cosines(problem, members, folder / stems[-1])
            rows += [_row(run, _maml_of(members)) for run in members]
    every = dict.fromkeys(column for row in rows for column in row)
    rows = [{column: row.get(column) for column in every} for row in rows]
    return Written(
        stems, [("Few-shot learning", rows)], [*files_of(stems), *write_tables(rows, folder, table)]
    )


def draw_curves(problem: str, runs: list[TaskRun], stem: Path) -> None:
    """New tasks' accuracy or error against meta-steps, tasks and seconds."""
    figure, panels = pyplot().subplots(
        1, 3, figsize=(WIDTH, 3.0), layout="constrained", sharey=True
    )
    for index, run in enumerate(runs):
        curve = mean_interval(run.curves[run.measure])
        for axes, x in zip(panels, (run.steps, run.tasks, run.seconds), strict=True):
            _draw(axes, x, curve, run.label, line_style(index))
    for axes, text in zip(panels, ("meta-steps", "tasks", "seconds"), strict=True):
        label_steps(axes, text)
    panels[0].set_ylabel(runs[0].measure.removeprefix(_PREFIX).replace("_", " "))
    values = np.concatenate([run.curves[run.measure].ravel() for run in runs])
    if "loss" in runs[0].measure and (np.isfinite(values) & (values > 0.0)).any():
        _scale_by_factors(panels[0])
    seeds = sorted({len(run.curves[run.measure]) for run in runs})
    told = f"{problem}; mean and 95% interval over {' or '.join(map(str, seeds))} seeds"
    figure.suptitle(told, fontsize=9)
    _legend(figure, panels[0])
    save(figure, stem)


def draw_cosines(problem: str, runs: list[TaskRun], stem: Path) -> None:
    """Cosine between BMG's and MAML's meta-gradients on the same tasks against meta-steps."""
    figure, axes = pyplot().subplots(figsize=(WIDTH, 2.6), layout="constrained")
    for index, run in enumerate(runs):
        if _COSINE in run.curves:
            curve = mean_interval(_smooth(run.curves[_COSINE]))
            _draw(axes, run.steps, curve, run.label, line_style(index))
    label_steps(axes, "meta-steps")
    axes.set_ylabel("cosine with MAML's gradient")
    axes.set_title(problem, fontsize=9)
    _legend(figure, axes)
    save(figure, stem)


def _draw(axes: Any, x: np.ndarray, curve: Interval, label: str, style: dict[str, Any]) -> None:
    axes.fill_between(x, curve.low, curve.high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, curve.mean, label=label, **style)


def _scale_by_factors(axes: Any) -> None:
    """Makes the ordinate logarithmic, with plain numbers; `STYLE` leaves formulas as they are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)


def _maml_of(runs: list[TaskRun]) -> TaskRun | None:
    """The run of MAML that others are compared with: the best one, where there are several."""
    mamls = [run for run in runs if run.config.get("agent.algorithm") == "maml"]
    best = max if runs and "accuracy" in runs[0].measure else min
    return best(mamls, key=lambda run: float(final(run).mean()), default=None)


def final(run: TaskRun) -> np.ndarray:
    """Of each seed [S], the mean over the last tenth of the run."""
    last = run.tasks > (1.0 - _LAST) * run.tasks[-1]
    return run.curves[run.measure][:, last].mean(axis=1)


def reached(run: TaskRun, level: float) -> int | None:
    """The first point whose running mean, of all seeds, is as good as a level; None if none is."""
    curve = _smooth(run.curves[run.measure]).mean(axis=0)
    good = curve >= level if "accuracy" in run.measure else curve <= level
    return int(np.argmax(good)) if good.any() else None


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean of [S, N] over the points up to each."""
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    ends = np.arange(1, values.shape[1] + 1)
    starts = np.maximum(ends - _SMOOTHED, 0)
    return (sums[:, ends] - sums[:, starts]) / (ends - starts)


def _row(run: TaskRun, maml: TaskRun | None) -> dict[str, Any]:
    get, bmg = run.config.get, run.config.get("agent.algorithm") == "bmg"
    interval = mean_interval(final(run))
    seeds = len(run.curves[run.measure])
    return {
        "run": run.label,
        "problem": run.problem,
        "algorithm": get("agent.algorithm"),
        "K": get("meta.inner_steps"),
        "L": get("meta.bootstrap_steps") if bmg else None,
        "matching": get("meta.matching") if bmg else None,
        "target data": get("few_shot.target_data")
        if bmg and get("meta.bootstrap_steps") != 1
        else None,
        "seeds": seeds,
        "meta-steps": round(float(run.steps[-1])),
        "tasks": int(run.tasks[-1]),
        "seconds": round(float(run.seconds[-1]), 1),
        "tasks/s, all seeds": round(seeds * run.tasks[-1] / max(run.seconds[-1], 1e-9)),
        "validation": run.measure.removeprefix(_PREFIX),
        "last 10%": round(float(interval.mean), 4),
        "95% low": _number(interval.low),
        "95% high": _number(interval.high),
        **_compared(run, maml),
        **run.tested,
        "status": run.status,
    }


def _compared(run: TaskRun, maml: TaskRun | None) -> dict[str, Any]:
    """Where it is as good as MAML in the end, over where MAML is."""
    if maml is None:
        return {}
    level = float(final(maml).mean())
    here, there = reached(run, level), reached(maml, level)
    ratios: list[float | None] = [None, None]
    if here is not None and there is not None:
        ratios = [
            round(float(ours[here] / theirs[there]), 3)
            for ours, theirs in ((run.steps, maml.steps), (run.seconds, maml.seconds))
        ]
    return {"steps to MAML's end, of MAML's": ratios[0], "seconds, of MAML's": ratios[1]}


def _number(value: Any) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
