"""Ray around a run: joined or started where the configuration wants it, and left again."""

import math
from pathlib import Path

from configs.load import ConfigError
from configs.schema import ActorsConfig
from scripts.check import RunFailed
from scripts.memory import store_bytes


def connect(actors: ActorsConfig, unroll_bytes: int) -> None:
    """Joins or starts Ray where the configuration wants it.

    Args:
        actors: of the run.
        unroll_bytes: size of what one of their calls returns.

    Raises:
        ConfigError: no cluster answers.
        RunFailed: Ray does not start.
    """
    if actors.runtime != "ray":
        return
    from actors import cluster

    wanted = actors.count * actors.unrolls_in_flight * unroll_bytes
    try:
        cluster.connect(
            actors.ray_address,
            object_store_bytes=store_bytes(actors.max_bytes_in_flight, wanted),
            cpus=math.ceil(actors.count * actors.cpus_per_actor),
        )
    except cluster.ClusterUnreachable as error:
        raise ConfigError(
            f"actors.ray_address={actors.ray_address}: {error}; start a cluster with "
            "`ray start --head`, or leave the key out to use this machine; a cluster that asks for "
            "a token needs that of its head, in ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except cluster.StartFailed as error:
        raise RunFailed(str(error)) from error
    if actors.device == "gpu" and actors.ray_address is None and not cluster.gpus():
        cluster.disconnect()
        raise ConfigError("actors.device=gpu: Ray finds no GPU on this machine; use cpu")


def told(actors: ActorsConfig) -> str:
    """What `connect` does, in words."""
    if actors.runtime != "ray":
        return "making the environments"
    address = actors.ray_address
    return "starting Ray" if address is None else f"joining Ray ({address})"


def watched(actors: ActorsConfig, path: Path) -> tuple[int | None, str, str, Path, int | None]:
    """What ends this process when it ends, for `ray_watch`."""
    if actors.runtime != "ray":
        return None, "", "", path, None
    from actors import cluster

    head = cluster.head() if actors.ray_address else ""
    return *cluster.raylet(), head, path, cluster.own_head()


def disconnect(actors: ActorsConfig) -> None:
    """Leaves Ray; ends what `connect` started."""
    if actors.runtime == "ray":
        from actors import cluster

        cluster.disconnect()
