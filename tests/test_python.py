"""`import bmg`: the examples of docs/python.md, run as they stand, and what they promise."""

import re
import signal

import jax
import numpy as np
import pytest

import bmg
from tests.system.command import ROOT

_EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the examples have defined, run one after the other in an empty folder."""
    folder = tmp_path_factory.mktemp("python")
    names = {}
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for example in _EXAMPLES:
            exec(compile(example, "docs/python.md", "exec"), names)
        names["again"] = bmg.train("catch/bmg", "runs/catch", total_frames=22_000, **_CATCH)
        names["folder"] = folder
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert after == handlers
    return names


_CATCH = {"actors": {"runtime": "in_process", "count": 1}, "logging.tensorboard": False}


def test_training_and_reading(told):
    run, again = told["run"], told["again"]
    assert run.summary["status"] == again.summary["status"] == "finished"
    assert run.config.agent.algorithm == "bmg"
    assert run.metrics["frames"][-1] == run.summary["frames"] >= 20_000
    assert again.summary["frames"] >= 22_000 > run.summary["frames"]
    assert np.isfinite(run.metrics["meta/entropy_cost"]).all()
    assert {len(values) for values in run.metrics.values()} == {len(run.metrics["frames"])}
    assert run.seeds == {}
    assert repr(run).startswith("Run('runs/catch': finished, 2")
    assert len(repr(run)) < 100
    first, second = again.summary["provenance"]["starts"]
    assert first["started"] <= second["started"] == again.summary["provenance"]["started"]
    assert set(first) == {"started", "command", "commit", "dirty", "host"}


def test_acting(told):
    policy, observations = told["policy"], told["observations"]
    assert told["actions"].shape == (8,)
    assert told["best"].shape == ()
    assert told["values"].shape == (8,)
    seen = np.eye(50, dtype=np.uint8)[:8]
    logits = policy.logits(seen)
    assert logits.shape == (8, 3)
    np.testing.assert_array_equal(policy.act(seen), np.argmax(logits, axis=-1))
    np.testing.assert_allclose(policy.logits(seen[0]), logits[0], rtol=1e-5, atol=1e-6)
    many = policy.act(np.repeat(seen[:1], 3_000, axis=0), jax.random.key(1))
    shares = np.bincount(many, minlength=3) / 3_000
    np.testing.assert_allclose(shares, jax.nn.softmax(logits[0]), atol=0.04)
    with pytest.raises(ValueError, match=r"are \[..., 50\], and this one is \[8, 49\]"):
        policy.value(observations[:, :49])
    with pytest.raises(ValueError, match="are uint8, and this one has fractions"):
        policy.value(0.9 * seen)
    np.testing.assert_array_equal(policy.value(1.0 * seen), policy.value(seen))
    np.testing.assert_array_equal(policy.act(seen, 3), policy.act(seen, jax.random.key(3)))
    assert repr(policy) == f"Policy(of uint8[50], 3 actions, {policy.frames:,} frames)"


def test_an_exported_policy_is_the_original(told):
    """For another batch size than the example's, without our code."""
    seen = np.eye(50, dtype=np.uint8)[:5]
    logits, value = told["program"].call(seen)
    np.testing.assert_allclose(logits, told["policy"].logits(seen), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, told["policy"].value(seen), rtol=1e-5, atol=1e-6)


def test_reporting(told):
    assert "catch" in (told["folder"] / told["page"]).read_text()


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(bmg.ConfigError, match=r"learner.batch_size=-1"):
        bmg.train("catch/bmg", learner={"batch_size": -1})
    with pytest.raises(bmg.ConfigError, match="nowhere holds no run"):
        bmg.load_run("nowhere")
    with pytest.raises(bmg.ConfigError, match="nowhere holds no run"):
        bmg.load_policy("nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_there_is_not(told):
    run = told["folder"] / "runs" / "catch"
    with pytest.raises(bmg.ConfigError, match="holds no checkpoint 7; there are"):
        bmg.load_policy(run, checkpoint=7)
    with pytest.raises(bmg.ConfigError, match="there is no seed 5; it has 0 to 0"):
        bmg.load_policy(run, seed=5)
