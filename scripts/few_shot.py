"""From a `Config` to few-shot learning: its tasks, its network and its learner."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from actors.tasks import classes, glyphs, image_folder, sinusoids
from agents.algorithm import State
from agents.few_shot import (
    CLASSIFICATION,
    REGRESSION,
    Assessment,
    FewShotSettings,
    MetaParams,
    Problem,
    assess_tasks,
    few_shot,
)
from agents.hyperparameters import Learned
from agents.networks import DenseNetwork, make_conv_classifier, make_dense_network
from agents.settings import MetaSettings
from agents.update import Metrics
from configs.load import ConfigError
from configs.schema import Config, FewShotConfig
from learner.on_device import SeedsLearner, make_seeds_learner
from scripts.check_few_shot import check_classes, check_side
from scripts.on_device import devices_of

_log = logging.getLogger(__name__)
_HIDDEN = (40, 40)  # of dense_40
_VALIDATION_KEY = 0  # the same tasks each time, in every run


class Tasks(NamedTuple):
    """What is to be learned, and from what."""

    problem: Problem
    data: Mapping[str, Any]  # what each split is drawn from: train, validation, test


def build_tasks(few: FewShotConfig, game: str, network_name: str) -> Tasks:
    """The tasks of a configuration; glyphs are drawn and images are read here.

    Args:
        few: what a task is.
        game: sinusoid, glyphs or images.
        network_name: of the learner.

    Raises:
        ConfigError: an image is damaged, or there are too few or too small ones.
    """
    if game == "sinusoid":
        sample = sinusoids.make_sample(few.shots, few.queries)
        network = make_dense_network(1, _HIDDEN, 1)
        return Tasks(Problem(network, REGRESSION, sample), dict.fromkeys(glyphs.SPLITS))
    images = glyphs.glyphs() if game == "glyphs" else _read_folder(few)
    check_classes(few, {split: [*map(len, of)] for split, of in images.items()})
    shape = images["train"][0].shape[1:]
    check_side(network_name, min(shape[:2]))
    sample = classes.make_sample(few.ways, few.shots, few.queries)
    return Tasks(
        Problem(_classifier(few, network_name, shape), CLASSIFICATION, sample),
        {split: classes.make_classes(of) for split, of in images.items()},
    )


def _classifier(few: FewShotConfig, name: str, image_shape: tuple[int, ...]) -> DenseNetwork:
    ways = few.ways
    if name == "four_blocks":
        height, width, channels = image_shape
        return make_conv_classifier(few.filters, ways, (height, width, channels))
    dense = make_dense_network(int(np.prod(image_shape)), _HIDDEN, ways)

    def apply(params: Any, images: jax.Array) -> jax.Array:
        pixels = images.reshape(images.shape[0], -1) / 255.0
        return dense.apply(params, pixels)

    return DenseNetwork(dense.init, apply)


def _read_folder(few: FewShotConfig) -> dict[str, list[np.ndarray]]:
    try:
        images, damaged = image_folder.load(
            image_folder.listing(Path(few.folder or "")),
            side=few.image_size,
            colour=few.colour,
            skip_damaged=few.skip_damaged,
            cache=_cache(),
        )
    except image_folder.BadImages as error:
        raise ConfigError(f"few_shot.folder: {error}") from None
    for path in damaged:
        _log.warning("bmg: %s cannot be read: left out", path)
    return images


def _cache() -> Path | None:
    """Where images stand that were read and resized before, beside the compiled programs."""
    try:
        return Path.home() / ".cache" / "bmg" / "images"
    except RuntimeError:  # an unknown user without HOME, as in containers
        return None


def make_few_shot_settings(config: Config) -> FewShotSettings:
    """All that decides how tasks are learned."""
    meta = config.meta
    rates = Learned(*config.hyperparameter_range("learning_rate_scale")) if meta.learned else None
    return FewShotSettings(
        algorithm=config.agent.algorithm,
        tasks=config.learner.batch_size,
        learning_rate=config.learner.learning_rate,
        rate_scale=rates,
        target_data=config.few_shot.target_data,
        meta=MetaSettings(**{name: getattr(meta, name) for name in MetaSettings._fields}),
    )


def build_few_shot_learner(config: Config, tasks: Tasks) -> SeedsLearner:
    """The learner of all seeds; a point of its curves is `few_shot.validate_every` meta-steps.

    Raises:
        ConfigError: there are fewer devices than asked for.
    """
    settings, few = make_few_shot_settings(config), config.few_shot
    algorithm = few_shot(settings, tasks.problem)

    on_training = algorithm._replace(
        step=lambda state, keys, data: algorithm.step(state, keys, data["train"]),
        diagnose=lambda state, keys, data: algorithm.diagnose(state, keys, data["train"]),
    )

    def examine(state: State, key: jax.Array, data: Any) -> Metrics:
        assert state.meta is not None
        known = assess_tasks(
            settings,
            tasks.problem,
            state.meta.params,
            jax.random.key(_VALIDATION_KEY),
            data["validation"],
            tasks=few.validation_tasks,
            steps=max(few.validation_steps),
        )
        means = jax.tree.map(lambda x: jnp.mean(x, axis=0), known)
        cosine = on_training.diagnose(state, key[None], data)
        return {**validation_metrics(means, few.validation_steps), **cosine}

    seen = {split: tasks.data[split] for split in ("train", "validation")}
    return make_seeds_learner(
        on_training,
        seeds=config.all_seeds,
        devices=devices_of(config.learner.devices, config.seeds),
        steps_per_update=config.learner.batch_size,
        cycles=few.validate_every,
        data=seen,
        examine=examine,
    )


def validation_metrics(known: Assessment, steps: list[int]) -> dict[str, Any]:
    """Before any gradient step and after some numbers of them, by name."""
    return {
        f"validation/{name}_{'after_' + str(n) if n else 'before'}": values[n]
        for name, values in known._asdict().items()
        if values is not None
        for n in [0, *steps]
    }


def assess_test_tasks(
    settings: FewShotSettings,
    tasks: Tasks,
    meta_params: MetaParams,
    *,
    seed: int,
    count: int,
    steps: int,
) -> Assessment:
    """Learns test tasks, [count, steps + 1]."""
    return jax.jit(
        lambda params, data: assess_tasks(
            settings,
            tasks.problem,
            params,
            jax.random.key(seed),
            data,
            tasks=count,
            steps=steps,
        )
    )(meta_params, tasks.data["test"])


def data_bytes(tasks: Tasks) -> int:
    """Size of all images."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tasks.data))
