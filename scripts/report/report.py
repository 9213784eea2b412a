"""`bmg report`: figures, tables and a page from run folders alone."""

import logging
from pathlib import Path
from typing import Any

from configs.load import ConfigError
from learner.reading import printable
from scripts.report.common_frames import report_common_frames
from scripts.report.comparison import OF_ALL, Comparison, compare, never_started
from scripts.report.few_shot import report_tasks
from scripts.report.figures import STYLE, pyplot
from scripts.report.finding import folders_with_curves, planned_trials
from scripts.report.game_report import report_agents
from scripts.report.html import STORY, Section, write_page
from scripts.report.learning_curves import draw_curve, draw_hyperparameters, lines_of
from scripts.report.published_agents import Published, read_published
from scripts.report.runs import RETURN, Run, read_run, shown
from scripts.report.seed_report import report_groups
from scripts.report.seed_runs import pool
from scripts.report.settings import by_setting, difference_rows
from scripts.report.stories import report_stories
from scripts.report.tables import rounded

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
    paths = folders_with_curves(given)
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
    tasks = [run for run in every if run.together and run.of_tasks]
    groups = pool([run for run in every if run.together and not run.of_tasks])
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
    sections = list[Section]()
    with pyplot().rc_context(STYLE):
        if groups:
            sections.append(Section(folder, "Runs of several seeds"))
            report_groups(sections[-1], groups, "seeds_table" if runs else "table")
        if tasks:
            sections.append(Section(folder, "Few-shot learning"))
            report_tasks(sections[-1], tasks, "few_shot_table" if groups or runs else "table")
        for index, comparison in enumerate(comparisons, start=1):
            suffix = f"_protocol{index}" if len(comparisons) > 1 else ""
            sections.append(_report_comparison(comparison, others, folder, suffix))
        sections.append(Section(folder, "Each run's own story"))
        report_stories(sections[-1], every)
    if len(comparisons) > 1:
        differing = ", ".join(_differing(comparisons))
        note = (
            f"runs of {len(comparisons)} protocols, which differ in {differing}: each has a part "
            "of its own (--mix NAME compares all the same)"
        )
        notes.append(note)
    sections[0].notes[:0] = notes
    for note in dict.fromkeys(note for section in sections for note in section.notes):
        print(f"note: {printable(note, _LONGEST_FAULT)}")
    sections[0].notes[:0] = [f"left out: {fault}" for fault in faults]  # which stderr has told
    page = write_page(folder, " and ".join(shown(path.name) for path in given[:3]), sections)
    written = [*(file for section in sections for file in section.files), page]
    told = [f for f in written if not f.endswith(".pdf") and not f.startswith(("game_", STORY))]
    print(", ".join(printable(str(folder / name), _LONGEST_FAULT) for name in told))
    return 0


def _report_comparison(
    comparison: Comparison, published: list[Published], folder: Path, suffix: str
) -> Section:
    runs = comparison.runs
    games = sorted({run.game for run in runs})
    title = games[0] if len(games) == 1 else f"{len(games)} games"
    title += f", protocol {suffix.removeprefix('_protocol')}" if suffix else ""
    section = Section(folder, title, suffix)
    section.facts, section.notes = comparison.protocol, comparison.notes
    if len(games) == 1:
        lines = lines_of(comparison)
        section.figure(draw_curve(lines, published), "curve")
        section.figure(draw_hyperparameters(lines), "hyperparameters")
    if len(runs) > 1 and comparison.agents:
        report_agents(section, comparison, published)
    report_common_frames(section, comparison, published)
    section.table("Runs", [_row(run) for run in runs], "table")
    settings = by_setting(runs, OF_ALL, named=True)  # of one length each
    configs = {label: members[0].config for label, members in settings.items()}
    section.table("Keys in which they differ", difference_rows(configs, OF_ALL), "differences")
    return section


def _differing(comparisons: list[Comparison]) -> list[str]:
    keys = dict.fromkeys(key for c in comparisons for key in c.protocol)
    return [key for key in keys if len({str(c.protocol.get(key)) for c in comparisons}) > 1]


def _row(run: Run) -> dict[str, Any]:
    seconds = run.last("seconds")
    row = {
        "run": run.folder,
        "game": run.game,
        "algorithm": run.algorithm,
        "seed": run.seed,
        "status": run.summary.get("status"),
        "frames": run.end,
        "hours": rounded(seconds and seconds / 3600),
        "training return": rounded(run.last(RETURN)),
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
