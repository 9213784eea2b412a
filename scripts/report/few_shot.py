"""Figures and tables of few-shot learning: section 6 of Flennerhag et al. 2021.

Shapes: `S` seeds, `N` points, each of the state at its end.
"""

from typing import Any

import numpy as np

from scripts.report.figures import draw_band, label_steps, legend_above, line_style, new_figure
from scripts.report.html import Section
from scripts.report.runs import META, VALIDATION, Run, shown
from scripts.report.seed_statistics import mean_interval
from scripts.report.tables import rounded

_COSINE = f"{META}cosine"
_SMOOTHED = 5  # points of a running mean before levels are compared
_LAST = 0.1  # share of a run whose mean is its final value


def label(run: Run) -> str:
    """Of its configuration and its folder."""
    name = shown(run.config.get("name", "run"))
    return name if name in run.path.name else f"{name}: {run.folder}"


def _problem(run: Run) -> str:
    """What its tasks are; those of different problems are not compared."""
    game, ways = shown(run.config.get("env.game")), run.config.get("few_shot.ways")
    shots = run.config.get("few_shot.shots")
    return f"{game}, {shots} shots" if ways == 1 else f"{game}, {ways}-way {shots}-shot"


def _steps(run: Run) -> np.ndarray:
    """Meta-steps [N] at the end of each point."""
    return run.frames / max(int(run.config.get("learner.batch_size") or 1), 1)


def measure(run: Run) -> str:
    """The curve by which it is judged: after as many gradient steps as it is trained for."""
    classes = any(name.startswith(f"{VALIDATION}accuracy_after_") for name in run.curves)
    beginning = f"{VALIDATION}{'accuracy' if classes else 'query_loss'}_after_"
    after = [name for name in run.curves if name.startswith(beginning)]
    own = f"{beginning}{run.config.get('meta.inner_steps')}"
    return own if own in after else min(after, key=lambda name: (len(name), name))


def _judged(run: Run) -> np.ndarray:
    """Its curve [S, N] of `measure`."""
    return run.curves[measure(run)]


def _tested(run: Run) -> dict[str, str]:
    """Means over test tasks with their intervals, by number of gradient steps."""
    over, told = "interval_over_seeds" if len(run.seeds) > 1 else "interval", {}
    for evaluation in run.evaluations:
        kind = "accuracy" if "accuracy" in evaluation else "query_loss"
        for result in evaluation[kind]:
            low, high = (np.nan if end is None else end for end in result[over])
            text = f"{result['mean']:.4f} ({low:.4f} to {high:.4f})"
            told[f"test {kind} after {int(result['steps'])}"] = text
    return told


def report_tasks(section: Section, runs: list[Run], table: str) -> None:
    """Draws all figures, writes the table, and notes which runs were cut short.

    Args:
        section: takes them.
        runs: at least one.
        table: name of the table's files, without their endings.
    """
    problems = {_problem(run): [r for r in runs if _problem(r) == _problem(run)] for run in runs}
    rows = list[dict[str, Any]]()
    for number, (problem, members) in enumerate(problems.items(), start=1):
        suffix = f"_{number}" if len(problems) > 1 else ""
        section.figure(draw_curves(problem, members), f"few_shot{suffix}")
        section.figure(draw_cosines(problem, members), f"cosine{suffix}")
        rows += [_row(run, _maml_of(members)) for run in members]
    section.table("Few-shot learning", rows, table)
    section.notes += [f"{label(run)}: {run.status}" for run in runs if not run.finished]


def draw_curves(problem: str, runs: list[Run]) -> Any:
    """New tasks' accuracy or error against meta-steps, tasks and seconds."""
    figure, ((*panels,),) = new_figure(3.0, columns=3, sharey=True)
    for index, run in enumerate(runs):
        curve = mean_interval(_judged(run))
        for axes, x in zip(panels, (_steps(run), run.frames, run.seconds), strict=True):
            draw_band(axes, x, curve, label(run), line_style(index))
    for axes, text in zip(panels, ("meta-steps", "tasks", "seconds"), strict=True):
        label_steps(axes, text)
    panels[0].set_ylabel(measure(runs[0]).removeprefix(VALIDATION).replace("_", " "))
    values = np.concatenate([_judged(run).ravel() for run in runs])
    if "loss" in measure(runs[0]) and (np.isfinite(values) & (values > 0.0)).any():
        _scale_by_factors(panels[0])
    seeds = sorted({len(run.seeds) for run in runs})
    told = f"{problem}; mean and 95% interval over {' or '.join(map(str, seeds))} seeds"
    panels[1].set_title(told, fontsize=9)
    legend_above(figure, panels[0])
    return figure


def draw_cosines(problem: str, runs: list[Run]) -> Any:
    """Cosine between BMG's and MAML's meta-gradients on the same tasks against meta-steps.

    None where no run knows it.
    """
    known = {index: run for index, run in enumerate(runs) if _COSINE in run.curves}
    if not known:
        return None
    figure, ((axes,),) = new_figure(2.6)
    for index, run in known.items():
        curve = mean_interval(_smooth(run.curves[_COSINE]))
        draw_band(axes, _steps(run), curve, label(run), line_style(index))
    label_steps(axes, "meta-steps")
    axes.set_ylabel("cosine with MAML's gradient")
    axes.set_title(problem, fontsize=9)
    legend_above(figure, axes)
    return figure


def _scale_by_factors(axes: Any) -> None:
    """Makes the ordinate logarithmic, with plain numbers; `STYLE` leaves formulas as they are."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _maml_of(runs: list[Run]) -> Run | None:
    """The run of MAML that others are compared with: the best one, where there are several."""
    mamls = [run for run in runs if run.config.get("agent.algorithm") == "maml"]
    best = max if runs and "accuracy" in measure(runs[0]) else min
    return best(mamls, key=lambda run: float(final(run).mean()), default=None)


def final(run: Run) -> np.ndarray:
    """Of each seed [S], the mean over the last tenth of the run."""
    last = run.frames > (1.0 - _LAST) * run.frames[-1]
    return _judged(run)[:, last].mean(axis=1)


def reached(run: Run, level: float) -> int | None:
    """The first point whose running mean, of all seeds, is as good as a level; None if none is."""
    curve = _smooth(_judged(run)).mean(axis=0)
    good = curve >= level if "accuracy" in measure(run) else curve <= level
    return int(np.argmax(good)) if good.any() else None


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean of [S, N] over the points up to each."""
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1)
    ends = np.arange(1, values.shape[1] + 1)
    starts = np.maximum(ends - _SMOOTHED, 0)
    return (sums[:, ends] - sums[:, starts]) / (ends - starts)


def _row(run: Run, maml: Run | None) -> dict[str, Any]:
    get, bmg = run.config.get, run.config.get("agent.algorithm") == "bmg"
    interval = mean_interval(final(run))
    seeds, seconds = len(run.seeds), float(run.seconds[-1])
    timed = seconds > 0  # no NaN
    return {
        "run": label(run),
        "problem": _problem(run),
        "algorithm": get("agent.algorithm"),
        "K": get("meta.inner_steps"),
        "L": get("meta.bootstrap_steps") if bmg else None,
        "matching": get("meta.matching") if bmg else None,
        "target data": get("few_shot.target_data")
        if bmg and get("meta.bootstrap_steps") != 1
        else None,
        "seeds": seeds,
        "meta-steps": round(float(_steps(run)[-1])),
        "tasks": run.end,
        "seconds": round(seconds, 1) if timed else None,
        "tasks/s, all seeds": round(seeds * run.end / seconds) if timed else None,
        "validation": measure(run).removeprefix(VALIDATION),
        "last 10%": rounded(interval.value, 4),
        "95% low": rounded(interval.low, 4),
        "95% high": rounded(interval.high, 4),
        **_compared(run, maml),
        **_tested(run),
        "status": run.status,
    }


def _compared(run: Run, maml: Run | None) -> dict[str, Any]:
    """Where it is as good as MAML in the end, over where MAML is."""
    if maml is None:
        return {}
    level = float(final(maml).mean())
    here, there = reached(run, level), reached(maml, level)
    ratios: list[float | None] = [None, None]
    if here is not None and there is not None:
        ratios = [
            round(float(ours[here] / theirs[there]), 3)
            for ours, theirs in ((_steps(run), _steps(maml)), (run.seconds, maml.seconds))
        ]
    return {"steps to MAML's end, of MAML's": ratios[0], "seconds, of MAML's": ratios[1]}
