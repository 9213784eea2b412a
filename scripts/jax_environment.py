"""What environment variables make of JAX: refused in one line, or set right for our processes."""

import logging
import os
import subprocess
import sys

from configs.load import ConfigError

_log = logging.getLogger(__name__)
# Other values fail in the middle of a run, or make checkpoints that no other process can read.
FIXED = {
    "JAX_ENABLE_X64": "0",
    "JAX_NUMPY_DTYPE_PROMOTION": "standard",
    "JAX_DEFAULT_PRNG_IMPL": "threefry2x32",
    "JAX_TRANSFER_GUARD": "allow",
    "JAX_DEBUG_KEY_REUSE": "0",
}
# XLA reads its flags once, and ends the process if it does not know one. jaxlib alone takes a third
# of a second.
_READS_FLAGS = """
import sys
sys.path[:] = sys.argv[1:]
from jaxlib import xla_client
xla_client.CompileOptions()
"""


def require_jax() -> None:
    """Imports JAX for this process and, by its environment, for all that it starts.

    Raises:
        ConfigError: one line that names the variable; nothing was created.
    """
    if "jax" in sys.modules:
        return
    if sys.flags.optimize > 1:
        raise ConfigError("PYTHONOPTIMIZE=2 (-OO): JAX's packages need their docstrings; use 1")
    _check_xla_flags()
    given = {name: os.environ[name] for name in FIXED if name in os.environ}
    os.environ.update({name: FIXED[name] for name in given})
    try:
        import jax
    except ValueError as error:
        raise ConfigError(f"JAX refuses its environment: {error}; unset that variable") from None
    for name, value in given.items():
        if value.lower() not in (FIXED[name], {"0": "false"}.get(FIXED[name])):
            _log.warning("bmg: %s=%s is not followed: %s holds", name, value, FIXED[name])
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        _log.warning("bmg: JAX_DISABLE_JIT: nothing is compiled, and all takes 100 times as long")


def require_device() -> None:
    """Looks for JAX's devices; after all that must be set before.

    Raises:
        ConfigError: there is none as asked for; nothing was created.
    """
    import jax

    try:
        jax.local_devices()
    except Exception as error:  # an AssertionError without a word for JAX_PLATFORMS=cuda
        asked = os.environ.get("JAX_PLATFORMS")
        said = (str(error).splitlines() or ["it is not installed, or there is none"])[0]
        if not asked:
            raise ConfigError(f"JAX finds no device ({said}); try JAX_PLATFORMS=cpu") from None
        raise ConfigError(
            f"JAX_PLATFORMS={asked}: no such device here ({said}); unset it, or use cpu"
        ) from None


def _check_xla_flags() -> None:
    flags = os.environ.get("XLA_FLAGS")
    if not flags:
        return
    result = subprocess.run(
        [sys.executable, "-S", "-c", _READS_FLAGS, *sys.path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        said = [line.partition("] ")[2] for line in result.stderr.splitlines() if "] " in line]
        raise ConfigError(f"XLA_FLAGS={flags}: {(said or ['XLA refuses it'])[0]}; unset it")


def of_an_actor(threads: int, gpu_share: float, cache: str | None) -> dict[str, str]:
    """What keeps an actor's libraries within its threads and its share of an accelerator.

    Args:
        threads: of its policy.
        gpu_share: 0 plays on the CPU.
        cache: where compiled programs are kept.
    """
    if gpu_share:
        # A tenth of the share is left for what CUDA takes beside XLA's own pool.
        share = f"{0.9 * gpu_share:.4f}"
        device = {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_MEM_FRACTION": share}
    else:
        device = {"JAX_PLATFORMS": "cpu"}
    return {
        **device,
        **FIXED,
        "NPROC": str(threads),  # the size of XLA's own thread pool on CPUs
        "OMP_NUM_THREADS": str(threads),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        **({"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}),
    }
