"""From a sweep file to its trials."""

import pytest

from actors.environments.atari_games import BY_NAME
from configs.load import ConfigError, ConfigErrors, load
from configs.sweep import load_sweep, named_sweeps
from scripts.check import all_faults
from scripts.sweep.plan import MEASURING

_GAMES = tuple(BY_NAME)


def _write(folder, text):
    file = folder / "own.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    ("name", "trials"),
    [
        ("sweeps/ablations", 6 * 57 * 3),
        ("sweeps/atari57", 2 * 57 * 3),
        ("sweeps/ms_pacman_bootstrap_steps", 9),
        ("sweeps/smoke", 12),
        ("sweeps/two_colours", 12),
        ("sweeps/minatar", 15),
        ("sweeps/minatar_changes", 15),
        ("sweeps/minatar_sensitivity_discount", 30),
        ("sweeps/minatar_sensitivity_entropy_cost", 30),
        ("sweeps/minatar_sensitivity_learning_rate", 30),
        ("sweeps/minatar_sensitivity_vtrace_lambda", 30),
        ("sweeps/two_colours_fixed", 9),
        ("sweeps/two_colours_meta_learning_rates", 20),
        ("sweeps/two_colours_q_lambda", 24),
        ("sweeps/two_colours_q_lambda_no_context", 12),
        ("sweeps/two_colours_swap_periods", 6),
    ],
)
def test_each_shipped_sweep_can_run(name, trials):
    assert name in named_sweeps()
    sweep = load_sweep(name, (), _GAMES)
    assert len(sweep.trials) == trials
    assert len({trial.name for trial in sweep.trials}) == trials
    for trial in sweep.trials[:: max(1, trials // 40)]:
        assert all_faults(load(trial.source, trial.overrides)) == []


def test_what_has_a_horizon_can_be_measured(tmp_path):
    """For an estimate a trial is trained without an end, which it has no horizon for."""
    horizon = "{base: catch/impala, set: {learner.learning_rate_schedule: linear, "
    source = _write(tmp_path, horizon + "total_frames: 1000, learner.schedule_frames: 4000}}")
    (trial,) = load_sweep(source, (), _GAMES).trials
    assert all_faults(load(trial.source, [*trial.overrides, *MEASURING])) == []


def test_what_a_trial_is_made_of(tmp_path):
    source = _write(
        tmp_path,
        """
        base: catch/impala
        set: {total_frames: 1000, agent: {discount: 0.9}}
        variants:
          plain:
          tuned: {base: catch/bmg, agent.discount: 0.8, meta.learned: [discount]}
        grid: {seed: [3, 4], learner.learning_rate: [1e-4, 0.01]}
        """,
    )
    sweep = load_sweep(source, ["learner.batch_size=16"], _GAMES)
    names = [trial.name for trial in sweep.trials]
    assert names[:2] == ["plain-seed3-learning_rate0.0001", "plain-seed3-learning_rate0.01"]
    assert len(names) == 8
    tuned = next(trial for trial in sweep.trials if trial.name == "tuned-seed4-learning_rate0.01")
    config = load(tuned.source, tuned.overrides)
    assert config.agent.algorithm == "bmg"
    assert config.agent.discount == 0.8  # the variant's, over that of all
    assert config.meta.learned == ["discount"]
    assert (config.seed, config.learner.learning_rate) == (4, 0.01)
    assert (config.learner.batch_size, config.total_frames, config.name) == (16, 1000, "tuned")


def test_overrides_narrow_the_grid():
    sweep = load_sweep(
        "sweeps/atari57",
        ["env.game=[pong,qbert]", "seed=5", "variants=bmg", "retries=3", "resources.cpus=2"],
        _GAMES,
    )
    assert [trial.name for trial in sweep.trials] == ["bmg-pong-seed5", "bmg-qbert-seed5"]
    assert (sweep.config.retries, sweep.config.resources.cpus) == (3, 2)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("grids: {seed: [1]}\nretries: -1", ["unknown key grids", "retries=-1"]),
        ("resources: {cpu: 1}", ["unknown key resources.cpu"]),
        ("grid: {seed: 1}", ["grid.seed=1"]),
        ("grid: {seed: []}", ["no trials"]),
        ("grid: {seed: [1, 1]}", ["comes twice"]),
        ("variants: {../away: {}}", ["variants"]),
        ("resources: {gpus: 1.5}", ["resources.gpus=1.5"]),
        ("resources: {cpus: .inf, gpus: .nan}", ["resources.cpus=inf", "resources.gpus=nan"]),
        ("resources: {cpus: true}\nretries: true", ["resources.cpus=True", "retries=True"]),
        ("{}", ["nothing to run"]),
        ("retries: 2", ["nothing to run"]),
        (
            "set: {agent: {discount: 0.9}, agent.discount: 0.8}",
            ["set: agent.discount stands twice"],
        ),
        ("variants: {a: {seed: 1}, b: {meta: {x: 1}, meta.x: 2}}", ["variants.b: meta.x stands"]),
        (
            f"grid: {{seed: &a {[*range(100)]}, actors.count: *a, learner.epsilon: *a}}",
            ["1 x 100 x 100 x 100 = 1,000,000 trials; at most 20,000"],
        ),
        (f"grid: {{hyperparameters_from: [{'x' * 300}]}}", ["longer than 200 bytes"]),
    ],
)
def test_faults_of_the_file(tmp_path, text, faults):
    with pytest.raises(ConfigErrors) as error:
        load_sweep(_write(tmp_path, text), (), _GAMES)
    lines = str(error.value).splitlines()
    assert len(lines) == len(faults)
    assert all(any(fault in line for line in lines) for fault in faults)


@pytest.mark.parametrize("text", ["", "# nothing\n", "grid: {seed: [1]}\ngrid: {seed: [2]}"])
def test_files_that_say_nothing_or_say_it_twice(tmp_path, text):
    with pytest.raises(ConfigError, match=r"is empty|line 2, column 1: 'grid' stands twice"):
        load_sweep(_write(tmp_path, text), (), _GAMES)


def test_any_text_reaches_a_trial(tmp_path):
    path = tmp_path / "\u65e5\U0001f600"
    source = _write(tmp_path, f'set: {{hyperparameters_from: "{path}"}}')
    (trial,) = load_sweep(source, (), _GAMES).trials
    assert load(trial.source, trial.overrides).hyperparameters_from == str(path)


def test_names():
    with pytest.raises(
        ConfigError, match=r"no sweep named 'sweeps/nope'; there are .*sweeps/smoke"
    ):
        load_sweep("sweeps/nope", (), _GAMES)
    with pytest.raises(ConfigError, match="is a sweep; `bmg sweep sweeps/smoke` runs it"):
        load("sweeps/smoke")
    with pytest.raises(ConfigErrors, match="variants=nope: there are stacx, bmg"):
        load_sweep("sweeps/smoke", ["variants=nope"], _GAMES)
