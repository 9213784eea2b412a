"""Every configuration key, its type, its bounds and its default, in one place."""

import decimal
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from agents.hyperparameters import HYPERPARAMETERS, Hyperparameter
from configs.names import added, known

_IN_SHORT = re.compile(r"([-+]?[0-9]+(?:\.[0-9]+)?)([kKMGB])")
_FACTORS = {"k": 3, "K": 3, "M": 6, "G": 9, "B": 9}


def as_meant(value: Any, annotation: Any) -> Any:
    """A value for a key of this type: 10k and 2.5M are numbers; a whole number may be a text.

    Raises:
        ValueError: it is true or false, or holds one, where numbers are expected: pydantic would
            make 1 and 0 of them.
    """
    given: object = value
    values = cast(list[Any], given) if isinstance(given, list) else [given]
    if takes(annotation, str):
        is_text = type(value) is int and not takes(annotation, int, float)
        return str(value) if is_text else value
    if not takes(annotation, int, float):
        return value
    if any(isinstance(item, bool) for item in values):
        raise ValueError("must be a number")
    if isinstance(given, list):
        return [_number(item) for item in values]
    return _number(value)


def _number(value: Any) -> Any:
    """The number that a text like 10k stands for; anything else as it is."""
    match = _IN_SHORT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    number = decimal.Decimal(match[1]).scaleb(_FACTORS[match[2]])
    return int(number) if number == int(number) else float(number)


def takes(annotation: Any, *types: type) -> bool:
    """Whether a key's annotation names one of some types, also within another one."""
    return annotation in types or any(takes(part, *types) for part in get_args(annotation))


class _Operational:
    """Marks a key that says where a run runs, or what it writes, and nothing of what it learns."""


OPERATIONAL = _Operational()


class _Group(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        return as_meant(value, cls.model_fields[str(info.field_name)].annotation)


def _a_name(key: str) -> AfterValidator:
    """Takes the names that there are for a key when a configuration is read."""

    def check(value: str) -> str:
        if value not in known(key):
            raise PydanticKnownError("literal_error", {"expected": ", ".join(known(key))})
        return value

    return AfterValidator(check)


def _a_module(value: str) -> str:
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError("must be the name of a module, as my_module or package.my_module")
    return value


def _a_function(value: str) -> str:
    module, _, function = value.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise ValueError("must be module:function, as my_service:send")
    return value


class EnvironmentConfig(_Group):
    """`env`: what is played, by which protocol."""

    suite: Annotated[str, _a_name("env.suite")] = "atari"
    """Where the game comes from. two_colours needs actors.runtime=on_device. few_shot is no game
    but tasks to learn from a few examples."""
    game: str = "pong"
    """Atari: a name from `bmg games`. Gymnasium: an environment id. minatar: asterix, breakout,
    freeway, seaquest or space_invaders. few_shot: sinusoid, glyphs or images. Else the suite's own
    name."""
    frame_skip: int = Field(default=4, ge=1, le=1_000)
    """Emulator frames for each step, the action repeated; 1 where nothing is skipped."""
    frame_stack: int = Field(default=4, ge=1, le=1_000)
    """Frames in an observation; Atari only, else 1."""
    sticky_actions: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that the game repeats the last action (Machado et al. 2018 use 0.25, MinAtar
    0.1)."""
    full_action_space: bool = False
    """All 18 actions (Skiing: 9; minatar: 6) instead of the game's own."""
    noop_max: int = Field(default=30, ge=0, le=10_000)
    """At most this many no-ops begin an episode, a uniform draw from 0."""
    max_episode_frames: int = Field(default=108_000, ge=1)
    """Emulator frames (minatar: steps) after which an episode is cut; a cut bootstraps, an ending
    does not."""
    stagger_frames: int = Field(default=0, ge=0, le=1_000_000)
    """atari and gymnasium: each environment of an actor first plays at random for a number of
    frames of its own, a uniform draw up to this; so small batches do not all hold one opening."""
    reward_clip: float = Field(default=0.0, ge=0.0)
    """The learner clips rewards to [-reward_clip, reward_clip]; 0 does not clip. Left out, it is 1
    for Atari."""
    life_loss_discount: float = Field(default=0.0, ge=0.0, le=1.0)
    """Discount of the step that loses a life: 0 ends the return there, 1 ignores lives."""
    ramping: bool = True
    """minatar: asterix, seaquest and space_invaders become harder as an episode goes on."""
    swap_period: int = Field(default=100_000, ge=1, le=2**29)
    """two_colours: steps after which the two objects' rewards swap."""
    respawn: Literal["object", "all"] = "object"
    """two_colours: what is placed anew after a collection: the collected object, or, as in the
    world whose totals are published, the agent and both objects."""
    collection_discount: float = Field(default=1.0, ge=0.0, le=1.0)
    """two_colours: discount of the step that collects an object: 0 ends the return there."""

    change_every: int | None = Field(default=None, ge=1, le=2**24)
    """catch and minatar: steps of each game after which what its actions do is permuted anew, in
    all games of a run at once; null: never."""
    change_seed: int = Field(default=0, ge=0, lt=2**31)
    """Of these permutations; they are the same for all seeds of a run."""

    @model_validator(mode="before")
    @classmethod
    def _only_atari_clips(cls, values: Any) -> Any:
        # Published scores of Atari are of agents that clip; elsewhere it would change the game.
        if not isinstance(values, dict) or "reward_clip" in values:
            return cast(Any, values)
        given = cast(dict[str, Any], values)
        clip = 1.0 if given.get("suite", "atari") == "atari" else 0.0
        return {**given, "reward_clip": clip}

    @property
    def is_on_policy(self) -> bool:
        """Whether the agent plays between its updates, not before each step of the learner."""
        return self.suite == "two_colours"

    @property
    def is_few_shot(self) -> bool:
        """Whether there are tasks to learn instead of a game to play."""
        return self.suite == "few_shot"

    @property
    def unit(self) -> str:
        """What `total_frames` counts."""
        return "tasks" if self.is_few_shot else "frames"


def _keys_of_hyperparameters(
    base: type[BaseModel],
    type_: Any,
    field: Callable[[str, Hyperparameter], Any | None],
    names: Iterable[str],
) -> Any:
    """A group with a key more for each hyper-parameter, unless its field is None."""
    fields = {name: field(name, HYPERPARAMETERS[name]) for name in names}
    keys: Any = {name: (type_, value) for name, value in fields.items() if value is not None}
    return create_model(base.__name__, __base__=base, **keys)


def _fixed_value(name: str, entry: Hyperparameter) -> Any:
    del name
    return Field(
        default=entry.default, ge=0.0, le=entry.limit or entry.upper, description=entry.meaning
    )


def _outer_value(name: str, entry: Hyperparameter) -> Any | None:
    del name
    if entry.outer is None:
        return None
    return Field(
        default=entry.outer, ge=0.0, le=entry.limit or entry.upper, description=entry.meaning
    )


def _upper_bound(name: str, entry: Hyperparameter) -> Any:
    meaning = f"null: {entry.upper or f'meta.outer.{name}'}."
    return Field(default=None, gt=0.0, le=entry.limit or entry.upper, description=meaning)


_BUILT_IN = tuple(HYPERPARAMETERS)
_FixedValues = _keys_of_hyperparameters(_Group, float, _fixed_value, _BUILT_IN)
_OuterValues = _keys_of_hyperparameters(_Group, float, _outer_value, _BUILT_IN)
_UpperBounds = _keys_of_hyperparameters(_Group, float | None, _upper_bound, _BUILT_IN)


class AgentConfig(_FixedValues):
    """`agent`: the algorithm and its hyper-parameters: fixed values, or where learning starts."""

    algorithm: Annotated[str, _a_name("agent.algorithm")] = "impala"
    """impala: V-trace actor-critic, all hyper-parameters fixed; stacx: they are learned by
    meta-gradients of the outer loss; bmg: by bootstrapped meta-gradients. two_colours has an
    on-policy actor_critic, mg (it, and plain meta-gradients) and bmg; and an epsilon-greedy
    q_lambda, whose epsilon q_lambda_bmg learns. few_shot has maml, its first-order form fomaml, and
    bmg: they learn the first weights of all tasks."""
    objective: Annotated[str, _a_name("agent.objective")] = "actor_critic"
    """Targets and loss of an update. actor_critic: V-trace and the three costs; for two_colours
    one-step targets."""
    network: Annotated[str, _a_name("agent.network")] = "shallow"
    """shallow: IMPALA's two convolutions (published for DMLab, the fastest on CPUs); shallow_atari:
    its three for Atari; deep: residual; small: MinAtar's one, for boards. They take images
    [H, W, C] of at least 20, 36, 1 and 3 pixels a side, and are all `dense` where observations are
    vectors. Vectors only: dense, two layers of 128; separate, two of 256 for the policy and two
    more for the value. few_shot: dense_40, two dense layers of 40 on numbers or pixels;
    four_blocks, of convolution, transductive batch normalisation, ReLU and max-pooling, on images
    of at least 16 pixels a side."""
    auxiliary_heads: int = Field(default=0, ge=0, le=16)
    """More policies and values on the same torso, each with its own hyper-parameters; they never
    act."""
    auxiliary_layers: int = Field(default=0, ge=0, le=8)
    """Dense layers of 256 in each auxiliary head."""
    outer_value_head: bool = False
    """A value learned under the outer hyper-parameters, for the outer loss (Bonnet et al. 2022).
    Matching functions compare the other value, which the target's last step then does not train."""


class LearnerConfig(_Group):
    """`learner`: batches and the optimiser."""

    batch_size: int = Field(default=32, ge=1)
    """Unrolls of one environment in a batch; a multiple of actors.envs_per_actor. few_shot: tasks
    of a meta-step."""
    unroll_length: int = Field(default=20, ge=1)
    """Steps in an unroll."""
    optimizer: Literal["sgd", "rmsprop", "adam"] = "rmsprop"
    """Of the inner update."""
    loss: Literal["sum", "mean"] = "sum"
    """Over the valid steps of batch and time. IMPALA sums; the grid world's agent averages."""
    learning_rate: float = Field(default=6e-4, gt=0.0)
    """For losses as `learner.loss` makes them."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear: falls to 0 in the updates that schedule_frames make if no step is an auto-reset."""
    schedule_frames: int | None = Field(default=None, ge=1, le=10**12)
    """Frames over which the learning rate falls; null: total_frames. A short run of a long
    configuration keeps the long one's rates with it."""
    decay: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Of RMSProp's second moment."""
    epsilon: float = Field(default=0.01, gt=0.0)
    """Of RMSProp and Adam."""
    epsilon_placement: Literal["inside", "outside"] = "inside"
    """Of RMSProp's epsilon: inside the root of the second moment (TensorFlow, IMPALA as published),
    or outside. Inside, it is compared with squares of gradients: 1e-4 there bounds a step as 0.01
    outside does."""
    adam_beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Of Adam's first moment; 0 averages nothing."""
    gradient_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Of a moving average of the gradients that the optimiser then takes; 0 averages nothing. With
    Adam it is a second average: set this or adam_beta1 to 0 to have exactly one."""
    max_gradient_norm: float = Field(default=40.0, ge=0.0)
    """Global norm at which gradients are clipped; 0 does not clip."""
    devices: Annotated[int, OPERATIONAL] = Field(default=1, ge=0)
    """Devices of this process that share a batch; 0 takes all of them. With
    actors.runtime=on_device they share the seeds, and each core of a CPU is a device."""
    processes: Annotated[int, OPERATIONAL] = Field(default=1, ge=1, le=1_000)
    """Learner processes that share each batch, each with its own devices, and its own
    actors.count actors for its part; start the same command for each, with its own
    learner.process."""
    process: Annotated[int, OPERATIONAL] = Field(default=0, ge=0)
    """Which of them this is; 0 writes the run folder."""
    coordinator: Annotated[str | None, OPERATIONAL] = None
    """host:port of process 0, at which the processes find each other."""
    gpu_memory: Annotated[float, OPERATIONAL] = Field(default=0.75, gt=0.0, le=1.0)
    """Share of a GPU's memory that the learner takes; leave room for actors.device=gpu."""


class OuterConfig(_OuterValues):
    """`meta.outer`: hyper-parameters of the plain objective, which never change."""

    kl_cost: float = Field(default=0.0, ge=0.0)
    """Weight of KL(new policy || policy before the inner steps), summed over steps. Left out, it is
    1 for agent.algorithm=stacx, as published."""


class UpperConfig(_UpperBounds):
    """`meta.upper`: what each learned hyper-parameter stays below."""


class MetaConfig(_Group):
    """`meta`: how hyper-parameters are learned, where `agent.algorithm` learns any."""

    learned: list[str] = [
        "discount",
        "vtrace_lambda",
        "vtrace_leak",
        "policy_cost",
        "value_cost",
        "entropy_cost",
    ]
    """The hyper-parameters that are learned; the others keep their values under `agent`."""
    inner_steps: int = Field(default=1, ge=1)
    """K: updates, of a batch each, through which the meta-gradient goes."""
    bootstrap_steps: int = Field(default=1, ge=1)
    """L: further steps to the target, the last of them on the plain objective."""
    matching: Annotated[str, _a_name("meta.matching")] = "kl_value"
    """How the distance to the target is measured: `l2` of parameters; `kl` (target || learner) or
    `reverse_kl` of policies; `value` predictions; `kl_value`, the sum."""
    l2_weight: float = Field(default=0.5, ge=0.0)
    """Of the squared distance in `l2`."""
    policy_weight: float = Field(default=1.0, ge=0.0)
    """Of the divergence in `kl`, `reverse_kl` and `kl_value`."""
    value_weight: float = Field(default=0.25, ge=0.0)
    """Of the squared difference in `value` and `kl_value`."""
    target_optimizer: Literal["learner", "sgd"] = "learner"
    """Of the target's last step: the learner's own with its second moments (RMSProp as published),
    or a plain gradient step. Without `adam_beta1` and `gradient_decay`: their averages are of
    gradients of the learned objective."""
    target_learning_rate: float | None = Field(default=None, gt=0.0)
    """Of `target_optimizer=sgd`, constant and without clipping. null: rate, schedule and clipping
    of the learner, so that only its second moments are left out; for stacx 1, which makes the
    meta-gradient that of the outer loss."""
    keep_bootstrapped: bool = False
    """Go on from the (K+L-1)-th update instead of the K-th: all its batches are then new ones."""
    learning_rate: float = Field(default=1e-3, gt=0.0)
    """Of Adam on the meta-parameters."""
    epsilon: float = Field(default=1e-12, gt=0.0)
    """Of that Adam. A value far below every gradient makes its steps independent of the scale of
    matching functions and outer losses; with a larger one small gradients move little."""
    warmup_updates: int = Field(default=0, ge=0, lt=2**31)
    """Learner updates before the meta-parameters move. RMSProp's first updates are far larger than
    the rest, and their meta-gradients would fill Adam's second moment for thousands of steps."""
    max_gradient_norm: float = Field(default=0.0, ge=0.0)
    """Norm at which meta-gradients are clipped, in the scale of the matching function; 0 does not
    clip."""
    context_length: int = Field(default=10, ge=0, le=10_000)
    """two_colours: hyper-parameters are the output of a network that sees the mean rewards of the
    last so many unrolls (q_lambda: steps). 0: no network, each is one learned number."""
    context_normalised: bool = True
    """They are normalised by their mean and deviation since the start of the run, then squashed."""
    hidden: list[Annotated[int, Field(ge=1, le=2**20)]] = Field(default=[32], max_length=64)
    """Widths of that network's hidden layers; [] makes it linear."""
    outer: OuterConfig = OuterConfig()
    """See below."""
    upper: UpperConfig = UpperConfig()
    """See below."""


class FewShotConfig(_Group):
    """`few_shot`: the tasks of env.suite=few_shot, and how they are validated."""

    ways: int = Field(default=5, ge=1, le=10_000)
    """Classes of a task; 1 for sinusoid, which has none."""
    shots: int = Field(default=1, ge=1, le=10_000)
    """Examples of each class that a task is learned from; sinusoid: points."""
    queries: int = Field(default=15, ge=1, le=10_000)
    """Further examples of each class that are asked about afterwards."""
    target_data: Literal["support", "query", "both"] = "support"
    """bmg: what the first L - 1 steps to the target see; the last one sees the query set."""
    filters: int = Field(default=64, ge=1, le=1_024)
    """Of each convolution of agent.network=four_blocks."""
    folder: str | None = None
    """images: where they stand, in SPLIT/CLASS/IMAGE with the splits train, val and test."""
    image_size: int | None = Field(default=None, ge=1, le=1_024)
    """images: height and width in pixels that each is brought to; null: as they are, all alike."""
    colour: bool = False
    """images: three channels instead of grey."""
    skip_damaged: bool = False
    """images: leave out what cannot be read, with a warning, instead of refusing the folder."""
    validate_every: int = Field(default=100, ge=1, le=100_000)
    """Meta-steps between two validations, each a point of the learning curves."""
    validation_tasks: int = Field(default=100, ge=1, le=100_000)
    """Tasks of a validation, the same ones each time and for all seeds; of classes that training
    does not see."""
    validation_steps: list[Annotated[int, Field(ge=1, le=1_000)]] = Field(
        default=[1, 5, 10], min_length=1, max_length=20
    )
    """Gradient steps on a new task after which it is judged, in validation and in evaluation."""

    @field_validator("folder")
    @classmethod
    def _in_home(cls, value: str | None) -> str | None:
        return None if value is None else os.path.expanduser(value)


class ReplayConfig(_Group):
    """`replay`: old unrolls, for the target's extra steps and as part of each batch."""

    unrolls: int = Field(default=0, ge=0)
    """Unrolls of each batch that are replayed; the others of learner.batch_size are new."""
    max_bytes: int = Field(default=2**30, ge=1)
    """Bound on the replay's memory, which is taken as it fills."""
    max_kl: float = Field(default=0.0, ge=0.0)
    """Steps whose KL(current || behaviour policy) is larger are left out; 0 leaves none out."""


class ActorsConfig(_Group):
    """`actors`: who plays, and how far ahead of the learner."""

    runtime: Literal["ray", "in_process", "on_device"] = "ray"
    """in_process: the same loop without Ray, bit-for-bit repeatable. on_device: the game is part of
    the learner's program (catch, minatar, two_colours), so there are no actors, and many runs
    (`seeds`) can share it; learner.batch_size is the number of games of each."""
    mode: Literal["fast", "strict"] = "fast"
    """strict: fixed order and a policy lag of exactly one learner step; curves do not depend on
    speed."""
    count: Annotated[int, OPERATIONAL] = Field(default=2, ge=1, le=100_000)
    """Actor processes."""
    envs_per_actor: int = Field(default=16, ge=1, le=10_000)
    """Environments that each actor steps together."""
    threads_per_actor: Annotated[int, OPERATIONAL] = Field(default=1, ge=1)
    """CPU threads of each actor's policy and of its environments."""
    device: Annotated[Literal["cpu", "gpu"], OPERATIONAL] = "cpu"
    """Where the actors' policy runs. gpu: on a share of one, see gpus_per_actor; Ray only."""
    cpus_per_actor: Annotated[float, OPERATIONAL] = Field(default=1.0, ge=0.0)
    """CPUs that Ray sets aside for each actor."""
    memory_mb_per_actor: Annotated[int, OPERATIONAL] = Field(default=0, ge=0)
    """Memory, in MiB, that Ray sets aside for each actor; 0: none."""
    gpus_per_actor: Annotated[float, OPERATIONAL] = Field(default=0.1, gt=0.0, le=1.0)
    """For actors.device=gpu: the share of a GPU that Ray sets aside for each actor, which takes at
    most nine tenths of that share of its memory."""
    ray_address: Annotated[str | None, OPERATIONAL] = None
    """None starts Ray on this machine; `auto` or host:port joins a running cluster."""
    unrolls_in_flight: int = Field(default=2, ge=1)
    """Unroll calls that each actor has outstanding in fast mode: running, queued, or not yet
    learned from. (In strict mode two batches are outstanding, whatever their size.)"""
    max_bytes_in_flight: Annotated[int, OPERATIONAL] = Field(default=2**30, ge=1)
    """Bound on the bytes of all outstanding unrolls in fast mode."""
    max_policy_lag: int = Field(default=20, ge=0)
    """Unrolls played with parameters more than this many learner steps old are dropped; a step
    makes meta.inner_steps updates."""
    unroll_timeout_seconds: Annotated[float, OPERATIONAL] = Field(default=120.0, gt=0.0)
    """An actor that returns no unroll for so long is replaced."""
    max_failures: Annotated[int, OPERATIONAL] = Field(default=3, ge=1)
    """So many failures in a row in one place end the run with the actor's own error; each is
    followed by a longer pause. A process that dies, killed for example, counts for a third."""

    @property
    def on_device(self) -> bool:
        """Whether the environment is part of the learner's program, and there are no actors."""
        return self.runtime == "on_device"


class CheckpointConfig(_Group):
    """`checkpoint`: how often, and how many stay."""

    every_seconds: float = Field(default=300.0, gt=0.0)
    """Time between checkpoints; one more is written at the end and on SIGINT or SIGTERM."""
    keep: int = Field(default=3, ge=1)
    """The newest so many stay."""


class EvaluationConfig(_Group):
    """`evaluation`: separate games with fixed parameters, which `bmg evaluate` plays."""

    every_frames: int = Field(default=0, ge=0)
    """Training keeps its parameters at multiples of this (`bmg evaluate --snapshots`); 0: not."""
    episodes: int = Field(default=30, ge=1)
    """Games that each snapshot plays."""
    protocol: Literal["training", "noops", "sticky"] = "training"
    """training: as env says; noops: up to 30 no-ops, no sticky actions; sticky: sticky actions of
    0.25, no no-ops. The two are Atari's."""
    max_episode_frames: int | None = Field(default=None, ge=1)
    """Frames after which an episode is cut, in every suite, also where training has no limit; null:
    env.max_episode_frames."""


class LoggingConfig(_Group):
    """`logging`: what is written while training."""

    every_seconds: float = Field(default=5.0, gt=0.0)
    """Time between lines of metrics.jsonl."""
    tensorboard: bool = True
    """Writes the same scalars as TensorBoard events."""
    wandb: bool = False
    """Sends them to Weights & Biases as well (extra `wandb`); a resumed run goes on there."""
    wandb_project: str = Field(default="bmg", min_length=1)
    """Where they stand there."""
    wandb_group: str | None = None
    """Of runs that belong together, as seeds of one setting."""
    wandb_tags: list[str] = []
    """Words by which runs are found there."""
    sink: Annotated[str, AfterValidator(_a_function)] | None = None
    """module:function, installed or in the current folder, that is called as function(metrics,
    run_dir) with each line of metrics.jsonl and waited for: for any other service."""


class Config(_Group):
    """A whole run."""

    name: Annotated[str, OPERATIONAL] = Field(default="run", min_length=1, pattern=r"^[\w.\-]+$")
    """Of the run folder, and in logs."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """All random streams derive from it."""
    seeds: int = Field(default=1, ge=1, le=10_000)
    """Runs in one program, of the seeds seed, seed + 1, ...; with actors.runtime=on_device."""
    total_frames: int = Field(default=200_000_000, ge=1, le=10**12)
    """Environment frames: 4 for each step at frame skip 4. few_shot: tasks, learner.batch_size for
    each meta-step."""
    hyperparameters_from: str | None = None
    """A run folder: the values that it learned are replayed as a fixed schedule, and nothing is
    learned but the parameters."""
    plugins: list[Annotated[str, AfterValidator(_a_module)]] = []
    """Modules, installed or in the current folder, that every process of the run imports before it
    looks anything up: they add environments, networks, objectives, matching functions,
    hyper-parameters and algorithms (docs/extending.md)."""
    env: EnvironmentConfig = EnvironmentConfig()
    """See below."""
    agent: AgentConfig = AgentConfig()
    """See below."""
    learner: LearnerConfig = LearnerConfig()
    """See below."""
    meta: MetaConfig = MetaConfig()
    """See below."""
    few_shot: FewShotConfig = FewShotConfig()
    """See below."""
    replay: ReplayConfig = ReplayConfig()
    """See below."""
    actors: ActorsConfig = ActorsConfig()
    """See below."""
    checkpoint: Annotated[CheckpointConfig, OPERATIONAL] = CheckpointConfig()
    """See below."""
    evaluation: Annotated[EvaluationConfig, OPERATIONAL] = EvaluationConfig()
    """See below."""
    logging: Annotated[LoggingConfig, OPERATIONAL] = LoggingConfig()
    """See below."""

    @model_validator(mode="before")
    @classmethod
    def _grid_world_has_no_actors(cls, values: Any) -> Any:
        # Its configurations did not say where it plays while it could not play anywhere else.
        if not isinstance(values, dict):
            return values
        given = cast(dict[str, Any], values)
        env: Any = given.get("env")
        actors: Any = given.get("actors", {})
        if not isinstance(env, dict) or not isinstance(actors, dict):
            return given
        played, by = cast(dict[str, Any], env), cast(dict[str, Any], actors)
        if played.get("suite") == "two_colours" and by.get("runtime", "ray") == "ray":
            return {**given, "actors": {**by, "runtime": "on_device"}}
        return given

    @field_validator("hyperparameters_from")
    @classmethod
    def _in_home(cls, value: str | None) -> str | None:
        return None if value is None else os.path.expanduser(value)

    @property
    def all_seeds(self) -> range:
        """Of the runs in this program."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def learns(self) -> bool:
        """Whether hyper-parameters are learned in this run."""
        name = self.agent.algorithm
        fixed = name in ("impala", "actor_critic", "q_lambda")
        if self.hyperparameters_from is not None or fixed:
            return False
        return bool(self.meta.learned) or name not in added("agent.algorithm")

    @property
    def without_gradient(self) -> set[str]:
        """Hyper-parameters through which no meta-gradient flows."""
        if self.agent.algorithm.startswith("q_lambda"):
            return set(HYPERPARAMETERS) - {"epsilon"}
        of_vtrace = {"vtrace_lambda", "vtrace_leak", "vtrace_leak_rho", "vtrace_leak_c"}
        return {"epsilon"} | (of_vtrace if self.env.is_on_policy else set())

    def hyperparameter_range(self, name: str) -> tuple[float, float]:
        """Where a learned hyper-parameter starts and what it stays below."""
        entry = HYPERPARAMETERS[name]
        start: float = getattr(self.agent, name, entry.default)
        bound: float | None = getattr(self.meta.upper, name, None) or entry.upper
        if bound is None:
            bound = getattr(self.meta.outer, name, entry.outer)
        return start, bound or 0.0

    @property
    def new_unrolls(self) -> int:
        """Unrolls of a batch that are not replayed."""
        return self.learner.batch_size - self.replay.unrolls

    @property
    def frames_per_update(self) -> int:
        """New frames in a batch, if no step of it is an auto-reset."""
        return self.new_unrolls * self.learner.unroll_length * self.env.frame_skip

    @property
    def horizon(self) -> int:
        """Frames over which a linear learning rate falls to 0."""
        return self.learner.schedule_frames or self.total_frames

    def updates_of(self, frames: int) -> int:
        """Learner updates that make so many frames."""
        return -(-frames // self.frames_per_update)

    def part_of_process(self) -> "Config":
        """The configuration with this learner process's part of the batch."""
        learner, replay, processes = self.learner, self.replay, self.learner.processes
        size, unrolls = learner.batch_size // processes, replay.unrolls // processes
        return self.model_copy(
            update={
                "learner": learner.model_copy(update={"batch_size": size}),
                "replay": replay.model_copy(update={"unrolls": unrolls}),
            }
        )


def operational_keys() -> tuple[str, ...]:
    """Dotted keys, and whole groups, in which runs that learn the same may differ."""
    return tuple(_operational(Config, ""))


def _operational(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if OPERATIONAL in field.metadata:
            yield f"{prefix}{name}"
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _operational(field.annotation, f"{prefix}{name}.")


def config_type() -> type[Config]:
    """`Config`, with keys for the hyper-parameters that plugins have added since."""
    names = tuple(name for name in HYPERPARAMETERS if name not in _BUILT_IN)
    return _with_keys(names) if names else Config


@functools.cache
def _with_keys(names: tuple[str, ...]) -> type[Config]:
    agent = _keys_of_hyperparameters(AgentConfig, float, _fixed_value, names)
    outer = _keys_of_hyperparameters(OuterConfig, float, _outer_value, names)
    upper = _keys_of_hyperparameters(UpperConfig, float | None, _upper_bound, names)
    groups: Any = {"outer": (outer, outer()), "upper": (upper, upper())}
    meta: Any = create_model("MetaConfig", __base__=MetaConfig, **groups)
    groups = {"agent": (agent, agent()), "meta": (meta, meta())}
    return create_model("Config", __base__=Config, **groups)
