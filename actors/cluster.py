"""The Ray cluster under the pool: joining or starting it, what it has room for, its metrics."""

import atexit
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Under `uv run`, Ray would zip the current folder and start every worker in a copy of it with an
# environment of its own: seconds for each actor, and a package index on each node. The package is
# installed wherever the cluster's image is, so the hook stays off unless the user sets it to 1.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# The pool drops the outstanding calls of an actor that it replaces; Ray would print their errors.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about GPUs

import psutil
import ray
import ray._private.utils
import ray.util.metrics
from ray import _raylet
from ray import exceptions as exceptions  # for the pool, which must not import ray before this
from ray._private import ray_constants
from ray._private.services import get_ray_address_from_environment
from ray.job_config import JobConfig

from actors.ray_address import ask_head
from actors.ray_folder import ray_folder

# Ray's handler would end this process in the middle of Ray's start.
ray._private.utils.set_sigterm_handler = lambda sigterm_handler: None

_STORE_BYTES_MIN = 256 * 2**20
# On a machine that is busy Ray takes longer than it gives itself, which cannot be configured.
_STARTS, _TOO_SLOW = 3, "timed out during startup"
_log = logging.getLogger(__name__)
ROOT = Path(__file__).parents[1]  # where the packages of this process are


class ClusterUnreachable(Exception):
    """No Ray cluster answers at the configured address."""


class StartFailed(Exception):
    """Ray does not start on this machine; the message says why."""


class Resources(NamedTuple):
    """What Ray sets aside for each actor."""

    cpus: float
    memory_bytes: int  # 0: none is set aside
    gpus: float  # a fraction shares one


class _ProcessGroups:
    """Gives each process that Ray starts on this machine a process group of its own.

    Else a SIGTERM for the group of a training, as `timeout`, shells and batch systems send it,
    ends Ray's node process, and Ray then ends the learner before it has saved its checkpoint.
    Python runs fork hooks in the children of Ray, which gives `subprocess` a `preexec_fn`.
    """

    starting = False

    @classmethod
    def leave(cls) -> None:
        if cls.starting:
            os.setpgid(0, 0)


os.register_at_fork(after_in_child=_ProcessGroups.leave)


class _Token:
    """Lets only the processes of a cluster that is started here call its servers.

    Who is called by whoever can reach it runs anybody's code. Ray has tokens, and would keep one in
    a file that all users of the machine can read. One of the run alone, in the environment of its
    processes, needs no file and is gone with them.
    """

    _NAMES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    _before: Mapping[str, str] | None = None

    @classmethod
    def require(cls) -> None:
        cls._before = {name: os.environ[name] for name in cls._NAMES if name in os.environ}
        os.environ.update(zip(cls._NAMES, ("token", secrets.token_hex(32)), strict=True))
        cls._read_again()

    @classmethod
    def forget(cls) -> None:
        if cls._before is None:
            return
        for name in cls._NAMES:
            os.environ.pop(name, None)
        os.environ.update(cls._before)
        cls._before = None
        cls._read_again()

    @staticmethod
    def _read_again() -> None:
        """Ray has read the environment when it was imported."""
        in_c: Any = _raylet  # of which no types are known
        in_c.Config.initialize("")
        in_c.AuthenticationTokenLoader.instance().reset_cache()


class _Job(JobConfig):
    """A job whose workers do not look into the folder that it was started from before all else.

    Ray adds that folder, and the script's, to the front of its workers' path on the way here.
    """

    def _serialize(self) -> str:
        self._py_driver_sys_path.clear()
        return super()._serialize()


def _worker_path() -> str:
    """Where a worker of Ray looks for modules: first where the packages of this process are.

    So it runs the code that this process runs, whatever the current folder holds. A node that has
    no such folder uses the packages that are installed on it.
    """
    return os.pathsep.join([str(ROOT), *(os.path.abspath(entry) for entry in sys.path)])


def connect(address: str | None, object_store_bytes: int, cpus: int) -> None:
    """Joins a Ray cluster, or starts one on this machine, which no other machine can reach.

    Args:
        address: None starts one here; "auto" or "host:port" joins a running one.
        object_store_bytes: shared memory for unrolls and parameters of a cluster started here.
        cpus: that all actors together ask for, on a cluster started here.

    Raises:
        ClusterUnreachable: nothing answers at the address.
        StartFailed: none could be started here.
    """
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "job_config": _Job(),
        "runtime_env": {"env_vars": {"PYTHONPATH": _worker_path()}},
    }
    if address is not None:
        try:
            with _signals_wait():
                ray.init(address=_answering(address), **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise ClusterUnreachable(str(error).splitlines()[0]) from error
        return
    for attempt in range(1, _STARTS + 1):
        _ProcessGroups.starting = True
        _Token.require()
        try:
            with _signals_wait(), _loopback():
                ray.init(
                    address="local",  # not some other job's cluster that happens to run here
                    _temp_dir=ray_folder(),
                    include_dashboard=False,
                    num_cpus=max(cpus, os.cpu_count() or 1),
                    object_store_memory=max(_STORE_BYTES_MIN, object_store_bytes),
                    **options,
                )
                return
        except Exception as error:  # whatever Ray raises when one of its processes does not come up
            disconnect()
            reason = " ".join(str(error).split())
            if attempt == _STARTS or _TOO_SLOW not in reason:
                raise StartFailed(f"Ray does not start: {reason}") from error
            _log.warning("bmg: Ray has not started within its 30 seconds; it is started again")
        finally:
            _ProcessGroups.starting = False


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Makes what Ray starts here listen at 127.0.0.1, as it does where it has no clusters.

    On Linux it takes `_node_ip_address="127.0.0.1"` for the address that other machines see.
    """
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Handles signals once Ray has started: interrupted half way, it leaves processes behind."""
    came: list[int] = []
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        try:
            for number in came:
                signal.raise_signal(number)
        except BaseException:
            disconnect()
            raise


def _answering(address: str) -> str:
    """The address behind "auto", once a head node has answered there.

    Ray remembers the last cluster that was started here, also when it was killed, and would try
    for minutes to join it.

    Raises:
        OSError: there is none, or nothing answers.
    """
    if address == "auto":
        address = get_ray_address_from_environment("auto", None)
    try:
        ask_head(address)
    except OSError as error:
        raise OSError(f"no Ray cluster answers at {address} ({error})") from error
    return address


def _without_last_word() -> None:
    """Keeps Ray's library of colours from writing at the end into what was the terminal for it.

    While Ray starts that may be a live display, which is closed by then and shows the escape
    sequence as text.
    """
    if colours := sys.modules.get("colorama.initialise"):
        atexit.unregister(colours.reset_all)


def disconnect() -> None:
    """Leaves the cluster; ends it and all its processes if `connect` started it."""
    ray.shutdown()
    _without_last_word()
    _Token.forget()


def raylet() -> tuple[int | None, str]:
    """The process of this machine's node, without which Ray ends this process; None: not found.

    And the file in which Ray says what it does in this process.
    """
    here = ray.get_runtime_context().get_node_id()
    sockets = {node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] == here}
    logs = [
        str(log)
        for socket in sockets
        for log in Path(socket).parents[1].glob(f"logs/python-core-driver-*_{os.getpid()}.log")
    ]
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet" and any(
            word.partition("=")[2] in sockets for word in process.info["cmdline"] or ()
        ):
            return process.pid, logs[0] if logs else os.devnull
    return None, os.devnull


def own_head() -> int | None:
    """The process of the head that `connect` has started; None: not found."""
    children = psutil.Process().children(recursive=True)
    return next((child.pid for child in children if child.name() == "gcs_server"), None)


def head() -> str:
    """host:port at which the cluster's head node answers."""
    return ray.get_runtime_context().gcs_address


def nodes() -> list[dict[str, float]]:
    """What each living node has, free or not: CPU, GPU, memory in bytes."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def gpus() -> float:
    """GPUs of the whole cluster, free or not."""
    return ray.cluster_resources().get("GPU", 0.0)


def describe_room(actors: int, each: Resources) -> str:
    """How much a pool asks for and how much there is, in one line."""
    total, free = ray.cluster_resources(), ray.available_resources()
    asked = {"CPU": each.cpus, "GPU": each.gpus, "memory": each.memory_bytes}
    parts = [
        f"{actors * amount:g} {name} ({free.get(name, 0):g} of {total.get(name, 0):g} free)"
        for name, amount in asked.items()
        if amount
    ]
    nodes = sum(node["Alive"] for node in ray.nodes())
    return f"the pool asks for {', '.join(parts)} on the cluster's nodes, of which {nodes} live"


class Gauges:
    """A run's metrics as Ray's own, which each node exports in Prometheus' format.

    `frames_per_second` is `ray_bmg_frames_per_second{run="..."}` there.
    """

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges: dict[str, ray.util.metrics.Gauge] = {}

    def set(self, metrics: Mapping[str, Any]) -> None:
        """Sets the gauge of each number; what is no number is left out."""
        for name, value in metrics.items():
            if not isinstance(value, int | float):
                continue
            if name not in self._gauges:
                known = f"bmg_{name.replace('/', '_')}"
                self._gauges[name] = ray.util.metrics.Gauge(known, name, tag_keys=("run",))
            self._gauges[name].set(float(value), self._tags)
