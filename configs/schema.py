"""Every configuration key, its type, its bounds and its default, in one place."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


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
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation: Any = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and (annotation is int or annotation is float):
            raise ValueError("must be a number")
        return value


class EnvironmentConfig(_Group):
    """`env`: what is played, by which protocol."""

    suite: Literal["atari", "catch", "gymnasium"] = "atari"
    """Where the game comes from."""
    game: str = "pong"
    """Atari: a name from `bmg games`. Gymnasium: an environment id. Catch: `catch`."""
    frame_skip: int = Field(default=4, ge=1)
    """Emulator frames for each step, the action repeated; 1 where nothing is skipped."""
    frame_stack: int = Field(default=4, ge=1)
    """Frames in an observation; Atari only, else 1."""
    sticky_actions: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that the emulator repeats the last action (Machado et al. 2018 use 0.25)."""
    full_action_space: bool = False
    """All 18 actions (Skiing: 9) instead of the game's own."""
    noop_max: int = Field(default=30, ge=0)
    """At most this many no-ops begin an episode, a uniform draw from 0."""
    max_episode_frames: int = Field(default=108_000, ge=1)
    """Emulator frames after which an Atari episode is cut; a cut bootstraps, an ending does not."""
    reward_clip: float = Field(default=1.0, ge=0.0)
    """The learner clips rewards to [-reward_clip, reward_clip]; 0 does not clip."""
    life_loss_discount: float = Field(default=0.0, ge=0.0, le=1.0)
    """Discount of the step that loses a life: 0 ends the return there, 1 ignores lives."""


class AgentConfig(_Group):
    """`agent`: the algorithm and the fixed values of its hyper-parameters."""

    algorithm: Literal["impala"] = "impala"
    """impala: V-trace actor-critic."""
    network: Literal["shallow", "shallow_atari", "deep"] = "shallow"
    """shallow: IMPALA's two convolutions (published for DMLab, the fastest on CPUs); shallow_atari:
    its three for Atari; deep: residual. Vector observations: two dense layers, whatever is set."""
    discount: float = Field(default=0.99, ge=0.0, le=1.0)
    """Of the return, for each step."""
    vtrace_lambda: float = Field(default=1.0, ge=0.0, le=1.0)
    """Mixing of n-step targets."""
    vtrace_leak_rho: float = Field(default=1.0, ge=0.0, le=1.0)
    """1: clipped importance weights (V-trace); 0: unclipped ones."""
    vtrace_leak_c: float = Field(default=1.0, ge=0.0, le=1.0)
    """The same for the trace coefficients."""
    policy_cost: float = Field(default=1.0, ge=0.0)
    """Weight of the policy-gradient loss."""
    value_cost: float = Field(default=0.5, ge=0.0)
    """Weight of half the squared value error."""
    entropy_cost: float = Field(default=0.01, ge=0.0)
    """Weight of the policy's entropy."""


class LearnerConfig(_Group):
    """`learner`: batches and the optimiser."""

    batch_size: int = Field(default=32, ge=1)
    """Unrolls of one environment in a batch; a multiple of actors.envs_per_actor."""
    unroll_length: int = Field(default=20, ge=1)
    """Steps in an unroll."""
    optimizer: Literal["sgd", "rmsprop", "adam"] = "rmsprop"
    """Of the inner update; every epsilon stands inside its root."""
    learning_rate: float = Field(default=6e-4, gt=0.0)
    """For losses that are summed over batch and time."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """linear: falls to 0 in the updates that total_frames makes if no step is an auto-reset."""
    decay: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Of RMSProp's second moment."""
    epsilon: float = Field(default=0.01, gt=0.0)
    """Of RMSProp and Adam."""
    max_gradient_norm: float = Field(default=40.0, ge=0.0)
    """Global norm at which gradients are clipped; 0 does not clip."""
    devices: int = Field(default=1, ge=0)
    """Local devices that share a batch; 0 takes all of them."""


class ActorsConfig(_Group):
    """`actors`: who plays, and how far ahead of the learner."""

    runtime: Literal["ray", "in_process"] = "ray"
    """in_process: the same loop without Ray, bit-for-bit repeatable."""
    mode: Literal["fast", "strict"] = "fast"
    """strict: fixed order and a policy lag of exactly one; curves do not depend on speed."""
    count: int = Field(default=2, ge=1, le=100_000)
    """Actor processes."""
    envs_per_actor: int = Field(default=16, ge=1, le=10_000)
    """Environments that each actor steps together."""
    threads_per_actor: int = Field(default=1, ge=1)
    """CPU threads of each actor's policy and of its environments."""
    device: Literal["cpu"] = "cpu"
    """Where the actors' policy runs."""
    ray_address: str | None = None
    """None starts Ray on this machine; `auto` or host:port joins a running cluster."""
    unrolls_in_flight: int = Field(default=2, ge=1)
    """Unroll calls that each actor has outstanding in fast mode: running, queued, or not yet
    learned from. (In strict mode two batches are outstanding, whatever their size.)"""
    max_bytes_in_flight: int = Field(default=2**30, ge=1)
    """Bound on the bytes of all outstanding unrolls in fast mode."""
    max_policy_lag: int = Field(default=20, ge=0)
    """Unrolls played with parameters more than this many learner updates old are dropped."""
    unroll_timeout_seconds: float = Field(default=120.0, gt=0.0)
    """An actor that returns no unroll for so long is replaced."""
    max_failures: int = Field(default=3, ge=1)
    """So many failures in a row in one place end the run with the actor's own error."""


class CheckpointConfig(_Group):
    """`checkpoint`: how often, and how many stay."""

    every_seconds: float = Field(default=300.0, gt=0.0)
    """Time between checkpoints; one more is written at the end and on SIGINT or SIGTERM."""
    keep: int = Field(default=3, ge=1)
    """The newest so many stay."""


class LoggingConfig(_Group):
    """`logging`: what is written while training."""

    every_seconds: float = Field(default=5.0, gt=0.0)
    """Time between lines of metrics.jsonl."""
    tensorboard: bool = True
    """Writes the same scalars as TensorBoard events."""
    wandb: bool = False
    """Sends them to Weights & Biases as well (extra `wandb`)."""


class Config(_Group):
    """A whole run."""

    name: str = Field(default="run", min_length=1, pattern=r"^[\w.\-]+$")
    """Of the run folder, and in logs."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """All random streams derive from it."""
    total_frames: int = Field(default=200_000_000, ge=1, le=10**12)
    """Environment frames: 4 for each step at frame skip 4."""
    env: EnvironmentConfig = EnvironmentConfig()
    """See below."""
    agent: AgentConfig = AgentConfig()
    """See below."""
    learner: LearnerConfig = LearnerConfig()
    """See below."""
    actors: ActorsConfig = ActorsConfig()
    """See below."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """See below."""
    logging: LoggingConfig = LoggingConfig()
    """See below."""
