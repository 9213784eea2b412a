"""Checks of few-shot learning, before anything is created or started; no jax in here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.tasks import image_folder
from configs.load import ConfigError, flat
from configs.schema import Config, FewShotConfig

_HERE = "env.suite=few_shot"
_SMALLEST_IMAGE = 16  # pixels a side, of which four halvings leave one
_MATCHING = ("l2", "kl", "reverse_kl")
_RATES = "learning_rate_scale"  # the hyper-parameter that may be learned, one for each layer
# What learning a task is: plain gradient steps on its mean loss.
_REQUIRED: dict[str, Any] = {
    "env.frame_skip": 1,
    "env.frame_stack": 1,
    "env.reward_clip": 0.0,
    "learner.unroll_length": 1,
    "learner.optimizer": "sgd",
    "learner.loss": "mean",
    "learner.learning_rate_schedule": "constant",
    "learner.max_gradient_norm": 0.0,
    "meta.target_optimizer": "sgd",
    "meta.keep_bootstrapped": False,
}
# Groups and keys that act; all others must have their defaults.
_ACTING = (
    *("name", "seed", "seeds", "total_frames", "few_shot", "checkpoint", "logging"),
    *("env.suite", "env.game", "actors.runtime", "agent.algorithm", "agent.network"),
    *("learner.batch_size", "learner.learning_rate", "learner.devices", "learner.gpu_memory"),
    *("meta.inner_steps", "meta.bootstrap_steps", "meta.matching", "meta.l2_weight"),
    *("meta.policy_weight", "meta.target_learning_rate", "meta.learning_rate", "meta.epsilon"),
    *("meta.max_gradient_norm", "meta.learned"),
)
_OF_RATES = (f"agent.{_RATES}", f"meta.upper.{_RATES}")  # act where those are learned
# `few_shot` keys that only some tasks know.
_OF_IMAGES = ("folder", "image_size", "colour", "skip_damaged")


def check_few_shot(config: Config) -> None:
    """Refuses tasks that cannot be drawn, and what would act nowhere.

    Raises:
        ConfigError: one line.
    """
    values, learned = flat(config.model_dump(mode="json")), config.meta.learned
    _check_keys(values, learned)
    if learned:
        start, upper = config.hyperparameter_range(_RATES)
        if start > upper:
            raise ConfigError(
                f"agent.{_RATES}={start:g}: it is learned between 0 and {upper:g}; raise "
                f"meta.upper.{_RATES}, or start lower"
            )
    if config.meta.matching not in _MATCHING:
        raise ConfigError(
            f"meta.matching={config.meta.matching}: {_HERE} has {', '.join(_MATCHING)}"
        )
    few_shot, game = config.few_shot, config.env.game
    if game != "images":
        _require_defaults(few_shot, _OF_IMAGES, f"env.game={game}")
    if game == "sinusoid":
        if config.agent.network != "dense_40":
            raise ConfigError(
                f"agent.network={config.agent.network}: env.game=sinusoid has no images; use "
                "dense_40"
            )
        if few_shot.ways != 1:
            raise ConfigError(
                f"few_shot.ways={few_shot.ways}: must be 1 for env.game=sinusoid, which has no "
                "classes"
            )
        return
    if few_shot.ways < 2:
        raise ConfigError(
            f"few_shot.ways={few_shot.ways}: must be at least 2 for env.game={game}; there is "
            "nothing to tell apart"
        )
    if game == "images":
        _check_images(few_shot, config.agent.network)


def check_without_tasks(few_shot: FewShotConfig, suite: str) -> None:
    """Refuses `few_shot` keys where there are no tasks.

    Raises:
        ConfigError: one line.
    """
    _require_defaults(few_shot, [*FewShotConfig.model_fields], f"env.suite={suite}")


def check_classes(few_shot: FewShotConfig, counts: Mapping[str, Sequence[int]]) -> None:
    """Refuses tasks that are larger than a split.

    Args:
        few_shot: what a task is.
        counts: images of each class of each split.

    Raises:
        ConfigError: one line.
    """
    ways, each = few_shot.ways, few_shot.shots + few_shot.queries
    for split, of_classes in counts.items():
        if ways > len(of_classes):
            raise ConfigError(
                f"few_shot.ways={ways}: the split {split} has {len(of_classes)} classes; give no "
                "more"
            )
        if each > min(of_classes):
            raise ConfigError(
                f"few_shot.shots={few_shot.shots}: with few_shot.queries="
                f"{few_shot.queries} a task takes {each} images of a class, and one in the "
                f"split {split} has {min(of_classes)}; make them fewer"
            )


def check_side(network: str, side: int) -> None:
    """Refuses images that are too small for the network.

    Raises:
        ConfigError: one line.
    """
    if network == "four_blocks" and side < _SMALLEST_IMAGE:
        raise ConfigError(
            f"agent.network=four_blocks: takes images of at least {_SMALLEST_IMAGE} pixels a side, "
            f"not {side}; raise few_shot.image_size, or use dense_40"
        )


def _check_images(few_shot: FewShotConfig, network: str) -> None:
    if few_shot.folder is None:
        raise ConfigError(
            "few_shot.folder=null: env.game=images needs the folder of the images, in "
            "SPLIT/CLASS/IMAGE"
        )
    if few_shot.image_size is not None:
        check_side(network, few_shot.image_size)
    try:
        files = image_folder.listing(Path(few_shot.folder))
    except image_folder.BadImages as error:
        raise ConfigError(f"few_shot.folder: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"few_shot.folder={few_shot.folder}: cannot be read ({error.strerror})"
        ) from None
    check_classes(few_shot, {s: [*map(len, classes.values())] for s, classes in files.items()})


def _check_keys(values: Mapping[str, Any], learned: Sequence[str]) -> None:
    """Refuses what acts nowhere, among all values of a configuration by dotted key."""
    for key, value in _REQUIRED.items():
        if values[key] != value:
            raise ConfigError(f"{key}={_text(values[key])}: must be {_text(value)} for {_HERE}")
    if set(learned) - {_RATES}:
        raise ConfigError(
            f"meta.learned={learned}: {_HERE} learns first weights; it may be "
            f"[], or [{_RATES}] for a factor of the inner rate for each layer"
        )
    defaults = flat(Config().model_dump(mode="json"))
    acting = (*_ACTING, *_REQUIRED, *(_OF_RATES if learned else ()))
    for key, value in values.items():
        acts = key in acting or key.split(".")[0] in acting
        if not acts and value != defaults[key]:
            raise ConfigError(f"{key}={_text(value)}: acts nowhere for {_HERE}; leave it out")


def _require_defaults(given: FewShotConfig, names: Sequence[str], where: str) -> None:
    for name in names:
        value, default = getattr(given, name), FewShotConfig.model_fields[name].default
        if value != default:
            raise ConfigError(
                f"few_shot.{name}={_text(value)}: acts nowhere for {where}; leave it out"
            )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def check_evaluation(policy: str, protocol: str | None, video: str | None, snapshots: bool) -> None:
    """Refuses what is for games.

    Raises:
        ConfigError: one line.
    """
    given = {
        "--policy": policy != "sample",
        "--protocol": protocol is not None,
        "--video": video is not None,
        "--snapshots": snapshots,
    }
    for option, is_given in given.items():
        if is_given:
            raise ConfigError(f"{option}: {_HERE} has tasks, and no game to play")
