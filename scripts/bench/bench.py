"""`bmg bench`: throughput of each stage and of the whole, as JSON."""

import time

from configs.load import ConfigError, load
from scripts import jax_environment, plugins
from scripts.bench.budget import bench_within
from scripts.check import check


def bench(
    source: str, overrides: list[str], seconds: int, budget: int | None, stages: list[str]
) -> int:
    """Measures environments, acting, learning and the whole system, one after the other.

    Each stage alone may use all cores, so the serial bound, 1 / (1 / acting + 1 / learning), is
    what the whole would reach if nothing were lost and nothing ran better side by side.

    Args:
        source: configuration.
        overrides: of its keys.
        seconds: for which the whole system runs, after its warm-up.
        budget: seconds for everything, in which stages are measured one by one; None: all of them.
        stages: names of those that are measured within a budget; none: all, as far as it goes.

    Raises:
        ConfigError: nothing was started.
        RunFailed: the whole system failed, with its reason.
    """
    began = time.monotonic()
    if stages and budget is None:
        raise ConfigError("--stages: it needs --budget SECONDS, within which they are measured")
    config = load(source, overrides, plugins.import_all)
    check(config)
    jax_environment.require_jax()
    if config.actors.on_device:
        from scripts.bench import on_device as runtime
    else:
        from scripts.bench import with_actors as runtime
    if budget is None:
        return runtime.bench_checked(config, source, overrides, seconds)
    facts = {"config": source, "overrides": overrides}
    return bench_within(budget, began, facts, runtime.stages(config, source, overrides, stages))
