"""What a run shows: what it waits for, the time left, and no number cut on a small terminal."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from scripts.display import fitted, make_display, seconds_left

_LOSSES = ("total", "policy", "value", "entropy", "relative_update_norm", "explained_variance")
_CELLS = [
    *(("frames", "123,456,789"), ("frames/s", "12,345"), ("time left", "123:45:59")),
    *(("elapsed", "23:45:59"), ("learner updates", "1,234,567"), ("mean return", "-12,345.67")),
    *(("episodes", "1,234,567"), ("actors alive", "64"), ("restarts", "0")),
    ("policy lag", "1.0 (max 12)"),
    *((f"loss/{name}", "-1234.5678") for name in _LOSSES),
    *(("learning_rate_scale", "0.99999 down"), ("vtrace_leak_rho", "1 up")),
    *(("meta/loss", "0.1234"), ("meta/target_distance", "0.1234"), ("meta/cosine", "-0.1234")),
]


def _shown(width, height, cells=_CELLS):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    with console.capture() as capture:
        console.print(fitted(Text("atari-bmg: pong -> " + "runs/" * 9), cells, console))
    return capture.get()


@pytest.mark.parametrize(("width", "height"), [(120, 40), (80, 24), (60, 20), (60, 12)])
def test_no_number_is_cut(width, height):
    shown = _shown(width, height)
    assert "…" not in shown
    assert "..." not in shown
    assert len(shown.splitlines()) <= height - 2  # below it are the bar and the cursor's line
    kept = [(name, value) for name, value in _CELLS if name in shown]
    assert all(value in shown for _, value in kept)
    assert [name for name, _ in kept][:5] == [name for name, _ in _CELLS][:5]
    left_out = len(_CELLS) - len(kept)
    assert (f"{left_out} more in metrics.jsonl" in shown) == (left_out > 0)
    assert (left_out > 0) == (width < 80)
    if width == 120:
        assert len(kept) == len(_CELLS)
        assert len(shown.splitlines()) == 1 + 7 + 2  # a title, three beside one another, borders


def _line(seconds, frames):
    return {"seconds": seconds, "frames": frames}


def test_the_time_left_is_told_once_it_means_something():
    """The first line spans compilation; later ones are taken together."""
    slow = _line(100.0, 10)
    assert seconds_left([], 1_000) is None
    assert seconds_left([slow], 1_000) is None
    assert seconds_left([slow, slow], 1_000) is None
    assert seconds_left([slow, _line(101.0, 110)], 1_000) == pytest.approx(8.9)
    uneven = [slow, _line(101.0, 190), _line(102.0, 210)]
    assert seconds_left(uneven, 1_000) == pytest.approx(7.9)
    steady = [_line(200.0 + n, 1_000 + 50 * n) for n in range(30)]
    assert seconds_left([slow, *steady], 4_450) == pytest.approx(40.0)
    assert seconds_left(steady, 2_000) == 0


def test_tasks_are_called_tasks(capsys):
    display = make_display("title", 1_000, "tasks")
    of_tasks = {"frames_per_second": 250.0, "loss/total": 1.0, "validation/accuracy_before": 0.5}
    display.show({**_line(2.0, 500), **of_tasks})
    display.close()
    assert "tasks 500/1,000  250 tasks/s" in capsys.readouterr().out


def test_lines_say_what_a_run_waits_for(capsys):
    display = make_display("title", 1_000)
    display.wait(lambda: "loading")
    assert capsys.readouterr().out == ""  # while it may be refused
    display.begin()
    display.wait(lambda: "never looked at")
    display.close()
    title, waiting = capsys.readouterr().out.splitlines()
    assert title == "title"
    assert waiting.split(maxsplit=1) == ["0:00:00", "loading"]
