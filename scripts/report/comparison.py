"""Which runs may be compared and averaged, and what a reader has to know about the others."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from configs.load import ConfigError
from scripts.report.returns import SHORTFALL, final_return
from scripts.report.runs import Run, shown
from scripts.report.settings import NOT_OF_THE_SETTING, by_setting, setting_of

# What the protocol says of a single game, or what does not change its scores.
_OF_THE_GAME = ("game", "actions")


# What tells no agent from another.
OF_ALL = ("env.game", *(key for key in NOT_OF_THE_SETTING if key != "total_frames"))


class Agent(NamedTuple):
    """Runs of one setting on some games."""

    label: str
    config: dict[str, Any]  # of one of them, flat
    runs: dict[str, list[Run]]  # of each game, whole ones

    @property
    def algorithm(self) -> str:
        """What learned."""
        return next(iter(self.runs.values()))[0].algorithm


class Comparison(NamedTuple):
    """Agents whose scores came about in the same way."""

    protocol: dict[str, Any]
    agents: list[Agent]
    games: list[str]  # that all agents have whole runs of
    total: int  # frames of each run
    runs: list[Run]  # all, the ones left out among them
    settings: dict[str, list[Run]]  # all, by the label of their setting
    frames: int  # at which runs of any length stand side by side
    side_by_side: list[Agent]  # runs that have so many frames; others of a setting if longer
    notes: list[str]  # what is missing, unfinished or mixed


def compare(
    runs: list[Run], mix: Iterable[str] = (), frames: int | None = None
) -> list[Comparison]:
    """Parts runs by protocol, and chooses those whose scores may be averaged.

    Args:
        runs: all.
        mix: what the protocols of runs that are compared may differ in.
        frames: at which runs of any length are put side by side; None: those of the shortest
            finished run.

    Raises:
        ConfigError: a name in `mix` is none of a protocol's, or no run has so many frames.
    """
    mix = tuple(mix)
    known = {key for run in runs for key in run.protocol}
    for key in mix:
        if key not in known:
            raise ConfigError(f"--mix {key}: protocols have {', '.join(sorted(known))}")
    longest = max(runs, key=lambda run: run.end)
    if frames is not None and not _has(longest, frames):
        raise ConfigError(
            f"--frames {frames}: no run goes so far; the longest, {longest.path}, has "
            f"{longest.end} frames"
        )
    parts: dict[str, list[Run]] = {}
    for run in runs:
        facts = {k: v for k, v in run.protocol.items() if k not in (*_OF_THE_GAME, *mix)}
        parts.setdefault(json.dumps(facts, sort_keys=True), []).append(run)
    return [_compare(json.loads(facts), members, mix, frames) for facts, members in parts.items()]


def never_started(planned: Iterable[Path], found: Iterable[Path]) -> list[str]:
    """A note on trials of a sweep that have no run; none if all have."""
    have = {path.absolute() for path in found}
    absent = sorted({shown(path.name) for path in planned if path.absolute() not in have})
    if not absent:
        return []
    return [f"{counted(len(absent), 'planned trial')} without a run: {_some(absent)}"]


def _compare(
    protocol: dict[str, Any], runs: list[Run], mix: tuple[str, ...], frames: int | None
) -> Comparison:
    runs, repetitions = _without_copies(runs)
    # A run that has only begun must not make all others short.
    total = max(run.total_frames for run in [r for r in runs if r.finished] or runs)
    by_label = by_setting(runs, (*OF_ALL, "total_frames"), named=True)
    agents = []
    for label, members in by_label.items():
        whole = [run for run in members if _reaches(run, total)]
        by_game: dict[str, list[Run]] = {}
        for run in whole:
            by_game.setdefault(run.game, []).append(run)
        if by_game:
            agents.append(Agent(label, members[0].config, dict(sorted(by_game.items()))))
    games = sorted(set.intersection(*(set(a.runs) for a in agents))) if agents else []
    frames = frames or _shortest(runs)
    side_by_side, apart = _side_by_side(runs, frames)
    notes = [
        *_mixed_by_request(runs, mix),
        *repetitions,
        *_left_out(runs, total),
        *apart,
        *_missing(agents, games),
        *_without_score(agents, total),
        *_mixed(runs),
    ]
    for key in mix:
        protocol = {**protocol, key: ", ".join(sorted({str(r.protocol.get(key)) for r in runs}))}
    return Comparison(protocol, agents, games, total, runs, by_label, frames, side_by_side, notes)


def _reaches(run: Run, total: int) -> bool:
    return run.finished and _has(run, total)


def _has(run: Run, frames: int) -> bool:
    return run.end >= (1 - SHORTFALL) * frames


def _shortest(runs: list[Run]) -> int:
    chosen = [run for run in runs if run.finished] or runs
    return min(min(run.end, run.total_frames or run.end) for run in chosen)


def _side_by_side(runs: list[Run], frames: int) -> tuple[list[Agent], list[str]]:
    """Runs that have so many frames, finished or not, and notes on those that have not.

    Those of one setting and different lengths are agents of their own: by then, a learning rate
    that falls until the end has fallen less in the longer ones.
    """
    reaching = [run for run in runs if _has(run, frames)]
    agents, kept = [], []
    for label, members in by_setting(reaching, OF_ALL, named=True).items():
        # Of one that did not finish and its repetition, the finished or the longer one.
        members = sorted(members, key=lambda run: (run.finished, run.end))
        best = {(run.game, run.path if run.seed is None else run.seed): run for run in members}
        members = [run for run in members if run.finished or run in best.values()]
        kept += members
        by_game: dict[str, list[Run]] = {}
        for run in sorted(members, key=lambda run: (run.game, str(run.seed))):
            by_game.setdefault(run.game, []).append(run)
        agents.append(Agent(label, members[0].config, by_game))
    notes = []
    told = [f"{run.folder} ({run.end:,})" for run in runs if run not in reaching]
    if told:
        text = f"{counted(len(told), 'run')} of fewer frames than {frames:,} left out of the table"
        notes.append(f"{text} at common frames: {_some(told)}")
    told = [f"{run.folder} ({run.end:,})" for run in reaching if run not in kept]
    if told:
        text = f"{counted(len(told), 'run')} whose repetition went farther left out of the table"
        notes.append(f"{text} at common frames: {_some(told)}")
    horizons = {run.schedule_frames or 0 for run in kept}
    if len(horizons) > 1:
        told = [f"{horizon:,}" if horizon else "none" for horizon in sorted(horizons)]
        notes.append(
            f"learning rates fall over different numbers of frames ({', '.join(told)}): at "
            f"{frames:,} frames they are not the same"
        )
    return agents, notes


def _without_copies(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Runs without those that tell the same as another, and notes on these and on repetitions."""
    kept: dict[Any, list[Run]] = {}
    copies = []
    for run in runs:
        known = kept.setdefault((setting_of(run), run.game, str(run.seed)), [])
        if original := next((other for other in known if run.is_copy_of(other)), None):
            copies.append(f"{run.path} of {original.path}")
        else:
            known.append(run)
    notes = [f"copies left out: {_some(copies)}"] if copies else []
    of_one_length: dict[Any, list[Run]] = {}
    for key, same in kept.items():
        for run in same:
            of_one_length.setdefault((key, run.total_frames), []).append(run)
    every = of_one_length.values()
    repeated = [" and ".join(r.folder for r in same) for same in every if len(same) > 1]
    if repeated:
        told = f"of one setting, game and seed, each run is a sample: {_some(repeated)}"
        notes.append(told)
    paths = {run.path for same in kept.values() for run in same}
    return [run for run in runs if run.path in paths], notes


def is_whole(run: Run, comparison: Comparison) -> bool:
    """Whether means are taken over it."""
    return _reaches(run, comparison.total)


def _left_out(runs: list[Run], total: int) -> list[str]:
    notes = []
    unfinished = [run for run in runs if not run.finished]
    if unfinished:
        told = [
            f"{run.folder} ({run.summary.get('status', 'no summary')}, {run.end:,} frames)"
            for run in unfinished
        ]
        notes.append(f"{counted(len(told), 'unfinished run')} left out of all means: {_some(told)}")
    short = [run for run in runs if run.finished and not _reaches(run, total)]
    if short:
        told = [f"{run.folder} ({run.end:,})" for run in short]
        text = f"{counted(len(told), 'run')} of fewer frames than {total:,} left out of all means"
        notes.append(f"{text}: {_some(told)}")
    return notes


def _missing(agents: list[Agent], games: list[str]) -> list[str]:
    notes = []
    every = sorted({game for agent in agents for game in agent.runs})
    for agent in agents:
        absent = [game for game in every if game not in agent.runs]
        if absent:
            notes.append(
                f"{agent.label} has no whole run of {_some(absent)}: aggregates are over the "
                f"{counted(len(games), 'game')} that all agents have"
            )
    seeds = {run.seed for agent in agents for runs in agent.runs.values() for run in runs}
    for agent in agents:
        lacking = []
        for game, runs in agent.runs.items():
            if gone := sorted(map(str, seeds - {run.seed for run in runs})):
                lacking.append(f"{game} {', '.join(gone)}")
        if lacking:
            notes.append(f"{agent.label} lacks seeds: {_some(lacking)}")
    return notes


def _without_score(agents: list[Agent], total: int) -> list[str]:
    """Runs in whose last twentieth no episode's return was known."""
    lost = [
        run.folder
        for agent in agents
        for runs in agent.runs.values()
        for run in runs
        if not math.isfinite(final_return(run, total))
    ]
    if not lost:
        return []
    text = f"{counted(len(lost), 'run')} without a return in the last twentieth, left out of scores"
    return [f"{text}: {_some(lost)}"]


def _mixed_by_request(runs: list[Run], mix: tuple[str, ...]) -> list[str]:
    found = {key: _counted(run.protocol.get(key) for run in runs) for key in mix}
    return [
        f"protocols are mixed by request: {key} = {told}" for key, told in found.items() if told
    ]


def _mixed(runs: list[Run]) -> list[str]:
    versions = [run.summary.get("versions", {}) for run in runs]
    packages = sorted({name for of_run in versions for name in of_run})
    found = {name: _counted(of_run.get(name) for of_run in versions) for name in packages}
    return [f"mixed versions of {package}: {told}" for package, told in found.items() if told]


def _counted(values: Iterable[Any]) -> str | None:
    """How many runs have each value; None if all have the same."""
    found = Counter(map(str, values))
    if len(found) < 2:
        return None
    return ", ".join(f"{value} ({n} runs)" for value, n in found.items())


def _some(words: list[str], most: int = 8) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def counted(number: int, word: str) -> str:
    """As 1 game, or 2 games."""
    return f"{number} {word}{'' if number == 1 else 's'}"
