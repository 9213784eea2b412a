"""`bmg report`: figures, tables and a page from run folders alone."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import ConfigError
from learner.reading import printable
from scripts.report import few_shot as few_shot_report
from scripts.report import seed_runs
from scripts.report.common_frames import write_common_frames
from scripts.report.comparison import (
    Comparison,
    compare,
    never_started,
    unique,
    whole_runs,
)
from scripts.report.figures import COLOURS, STYLE, files_of, label_steps, pyplot, save
from scripts.report.game_report import report_comparison
from scripts.report.html import Section, write_page
from scripts.report.published_agents import (
    Published,
    draw_published,
    drawn,
    legend_height,
    read_published,
)
from scripts.report.runs import (
    Run,
    find_runs,
    learned_in,
    planned_trials,
    read_run,
    shown,
)
from scripts.report.seed_report import report_seeds
from scripts.report.tables import write_tables

_log = logging.getLogger(__name__)
_LONGEST_FAULT = 1_000  # characters


def report(
    run_dirs: list[str],
    out: str | None,
    mix: list[str],
    frames: int | None = None,
    published: str | None = None,
) -> int:
    """Writes figures, tables and index.html.

    Runs of several seeds in one program are drawn by `seed_report`; others by this file, and by
    `game_report` where there is anything to compare.

    Args:
        run_dirs: run folders, or folders that hold some, as the results of a sweep.
        out: where to write; None: the folder, or `report` for several.
        mix: what protocols of runs that are compared may differ in.
        frames: at which runs of any length are put side by side; None: those of the shortest one.
        published: a CSV file with scores of published agents; None: the shipped one.

    Raises:
        ConfigError: a folder holds no run, none has so many frames, the published scores cannot be
            used, or the output cannot be written.
    """
    others = read_published(published)
    given = [Path(run_dir) for run_dir in run_dirs]
    paths = find_runs(given)
    planned, faults = planned_trials(given)
    notes = never_started(planned, paths)
    every = list[Run]()
    for path in paths:
        try:
            every.append(read_run(path))
        except ConfigError as error:
            if paths == [path]:
                raise
            faults.append(str(error))  # of one of many, which has just begun, say
    faults += [fault for run in every for fault in run.faults]
    if not every:
        raise ConfigError(f"no run to report: {'; '.join([*notes, *faults])}")
    faults = [printable(fault, _LONGEST_FAULT) for fault in faults]
    for fault in faults:
        _log.warning("bmg: left out: %s", fault)
    runs = [run for run in every if not run.together]
    task_runs = [run for run in every if run.together and run.of_tasks]
    groups = seed_runs.pool([run for run in every if run.together and not run.of_tasks])
    if frames is not None and not runs:
        raise ConfigError(
            f"--frames {frames}: runs of several seeds in one program stand in no such table"
        )
    comparisons = compare(runs, mix, frames) if runs else []
    folder = Path(out) if out else (given[0] if len(given) == 1 else Path("report"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from None
    written, sections = [], []
    if groups:
        part = report_seeds(groups, folder, "seeds_table" if runs else "table")
        told = [f"{group.label}: {group.status}" for group in groups if group.status != "finished"]
        if len(worlds := seed_runs.by_world(groups)) > 1:
            told.append(
                f"runs of {len(worlds)} worlds, {' and '.join(worlds)}: each has figures of its "
                "own, and totals are compared within a world only"
            )
        sections.append(Section("Runs of several seeds", {}, told, part.tables, part.figures))
        written += part.files
    if task_runs:
        alone = not groups and not runs
        part = few_shot_report.report_tasks(
            task_runs, folder, "table" if alone else "few_shot_table"
        )
        told = [
            f"{few_shot_report.label(run)}: {run.status}" for run in task_runs if not run.finished
        ]
        sections.append(Section("Few-shot learning", {}, told, part.tables, part.figures))
        written += part.files
    for index, comparison in enumerate(comparisons):
        suffix = f"_protocol{index + 1}" if len(comparisons) > 1 else ""
        section, files = _report_comparison(comparison, others, folder, suffix)
        sections.append(section)
        written += files
    if len(comparisons) > 1:
        differing = ", ".join(_differing(comparisons))
        note = (
            f"runs of {len(comparisons)} protocols, which differ in {differing}: each has a part "
            "of its own (--mix NAME compares all the same)"
        )
        notes.append(note)
    sections[0] = sections[0]._replace(notes=[*notes, *sections[0].notes])
    for note in dict.fromkeys(note for section in sections for note in section.notes):
        print(f"note: {printable(note, _LONGEST_FAULT)}")
    left_out = [f"left out: {fault}" for fault in faults]  # which stderr has told
    sections[0] = sections[0]._replace(notes=[*left_out, *sections[0].notes])
    written.append(
        write_page(folder, " and ".join(shown(path.name) for path in given[:3]), sections)
    )
    told = [file for file in written if not file.endswith(".pdf") and not file.startswith("game_")]
    print(", ".join(printable(str(folder / name), _LONGEST_FAULT) for name in told))
    return 0


def _report_comparison(
    comparison: Comparison, published: list[Published], folder: Path, suffix: str
) -> tuple[Section, list[str]]:
    runs, figures, tables, files = comparison.runs, [], [], []
    rows = [_row(run) for run in runs]
    files += write_tables(rows, folder, f"table{suffix}")
    if len({run.game for run in runs}) == 1:
        averaged = whole_runs(comparison)
        draw_curves(runs, averaged, folder / f"curve{suffix}", published)
        figures.append(f"curve{suffix}")
        if draw_hyperparameters(runs, averaged, folder / f"hyperparameters{suffix}"):
            figures.append(f"hyperparameters{suffix}")
        files += files_of(figures)
    if len(runs) > 1 and comparison.agents:
        more = report_comparison(comparison, folder, suffix, published)
        figures += more.figures
        tables += more.tables
        files += more.files
    common, names = write_common_frames(comparison, published, folder, suffix)
    tables += common
    files += names
    tables.append(("Runs", rows))
    games = sorted({run.game for run in runs})
    title = games[0] if len(games) == 1 else f"{len(games)} games"
    if suffix:
        title += f", protocol {suffix.removeprefix('_protocol')}"
    return Section(title, comparison.protocol, comparison.notes, tables, figures), files


def _differing(comparisons: list[Comparison]) -> list[str]:
    keys = dict.fromkeys(key for c in comparisons for key in c.protocol)
    return [key for key in keys if len({str(c.protocol.get(key)) for c in comparisons}) > 1]


def draw_curves(
    runs: list[Run], averaged: list[Run], stem: Path, published: list[Published]
) -> None:
    """Mean return of the recent episodes against frames, with reference scores.

    Args:
        runs: of one game.
        averaged: those of them that means are taken over; the others are drawn alone.
        stem: the figure's path without its ending.
        published: agents, of which some in the same game are drawn as well.
    """
    plt, others = pyplot(), drawn(published, runs)
    with plt.rc_context(STYLE):
        height = 4 + legend_height(others)
        figure, axes = plt.subplots(figsize=(7, height), constrained_layout=True)
        _draw(axes, runs, averaged, "episode_return")
        random = [e for e in runs[0].evaluations if e["policy"] == "random"]
        if random:
            axes.axhline(random[0]["mean_return"], color="0.4", linestyle=":", label="random play")
        axes.set_ylabel("episode return (mean of the last 100)")
        axes.set_title(runs[0].game)
        if axes.get_legend_handles_labels()[0]:  # else no episode has ended
            axes.legend()
        draw_published(figure, axes, others, runs)
        save(figure, stem)


def draw_hyperparameters(runs: list[Run], averaged: list[Run], stem: Path) -> bool:
    """Each learned hyper-parameter against frames; the acting head solid, auxiliary ones dashed.

    Args:
        runs: as of `draw_curves`.
        averaged: as of `draw_curves`.
        stem: as of `draw_curves`.

    Returns:
        Whether there was anything to draw: some run has learned or replayed hyper-parameters.
    """
    names = learned_in(runs)
    if not names:
        return False
    plt = pyplot()
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            rows,
            columns,
            figsize=(2.4 * columns + 0.6, 2.2 * rows + 0.3),
            constrained_layout=True,
            squeeze=False,
        )
        for panel, name in zip(panels.flat, names, strict=False):
            _draw(panel, runs, averaged, f"meta/{name}")
            for head in range(1, 17):
                _draw(panel, runs, averaged, f"meta/auxiliary_{head}/{name}", linestyle="--")
            panel.set_title(name.replace("_", " "))
        for panel in panels.flat[len(names) :]:
            panel.set_visible(False)
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
        save(figure, stem)
    return True


def _draw(axes: Any, runs: list[Run], averaged: list[Run], key: str, linestyle: str = "-") -> None:
    """A metric against frames: runs of one setting share a colour and, over whole ones, a mean."""
    for index, (name, members) in enumerate(_groups(runs).items()):
        curves = [(run, *run.curve(key)) for run in members]
        curves = [item for item in curves if len(item[1])]
        whole = [item for item in curves if item[0] in averaged]
        style = {"color": COLOURS[index % len(COLOURS)], "linestyle": linestyle}
        for run, frames, values in curves:
            thin = {"alpha": 0.3, "linewidth": 0.8} if len(whole) > 1 and run in averaged else {}
            label = None if thin or linestyle != "-" else f"{name}, seed {run.seed}"
            if label and run not in averaged:
                label += f" ({_why_alone(run)})"
            axes.plot(frames, values, label=label, **style, **thin)
        if len(whole) > 1:  # the mean goes as far as all of them do
            start, end = max(c[1][0] for c in whole), min(c[1][-1] for c in whole)
            grid = np.linspace(start, end, 200)
            mean = np.mean([np.interp(grid, frames, values) for _, frames, values in whole], 0)
            label = f"{name}, mean of {len(whole)} seeds"
            axes.plot(grid, mean, label=label if linestyle == "-" else None, **style)
    label_steps(axes, "environment frames")


def _why_alone(run: Run) -> str:
    """Why a run is part of no mean."""
    return f"{run.end:,} frames" if run.finished else run.summary.get("status", "unfinished")


def _groups(runs: list[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but their seeds, under a label that no others have."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.setting(with_game=True), run.name), []).append(run)
    labelled: dict[str, list[Run]] = {}
    for members in groups.values():
        first = members[0]
        labelled[unique(first.name, labelled, first.path)] = members
    return labelled


def _row(run: Run) -> dict[str, Any]:
    row = {
        "run": run.folder,
        "game": run.game,
        "seed": run.seed,
        "status": run.summary.get("status"),
        "frames": run.end,
        "hours": _rounded(run.last("seconds"), 3600),
        "training return": _rounded(run.last("episode_return")),
    }
    newest = [
        evaluation
        for evaluation in run.evaluations
        if not evaluation.get("snapshot")
        and evaluation.get("evaluation_protocol", "training") == "training"
    ]
    for policy in ("sample", "random"):
        text = None
        for evaluation in newest:
            if evaluation["policy"] == policy:
                text = f"{evaluation['mean_return']:.2f}"
                if evaluation["standard_error"] is not None:
                    text += f" +- {evaluation['standard_error']:.2f}"
        row["evaluation" if policy == "sample" else "random play"] = text
    return row


def _rounded(value: float | None, unit: int = 1) -> float | None:
    return None if value is None else round(value / unit, 2)
