"""Ray around a run: joined or started where the configuration wants it, and left again."""

import math
from pathlib import Path

from configs.load import ConfigError
from configs.schema import Config
from scripts.build import Probe, unroll_bytes
from scripts.check import RunFailed
from scripts.memory import store_bytes


def connect(config: Config, probe: Probe) -> None:
    """Joins or starts Ray where the configuration wants it.

    Raises:
        ConfigError: no cluster answers.
        RunFailed: Ray does not start.
    """
    if config.actors.runtime != "ray":
        return
    from actors import cluster

    actors = config.actors
    wanted = actors.count * actors.unrolls_in_flight * unroll_bytes(config, probe)
    try:
        cluster.connect(
            actors.ray_address,
            object_store_bytes=store_bytes(config, wanted),
            cpus=math.ceil(actors.count * actors.cpus_per_actor),
        )
    except cluster.ClusterUnreachable as error:
        raise ConfigError(
            f"actors.ray_address={config.actors.ray_address}: {error}; start a cluster with "
            "`ray start --head`, or leave the key out to use this machine; a cluster that asks for "
            "a token needs that of its head, in ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except cluster.StartFailed as error:
        raise RunFailed(str(error)) from error
    if actors.device == "gpu" and actors.ray_address is None and not cluster.gpus():
        cluster.disconnect()
        raise ConfigError("actors.device=gpu: Ray finds no GPU on this machine; use cpu")


def told(config: Config) -> str:
    """What `connect` does, in words."""
    if config.actors.runtime != "ray":
        return "making the environments"
    address = config.actors.ray_address
    return "starting Ray" if address is None else f"joining Ray ({address})"


def watched(config: Config, path: Path) -> tuple[int | None, str, str, Path, int | None]:
    """What ends this process when it ends, for `ray_watch`."""
    if config.actors.runtime != "ray":
        return None, "", "", path, None
    from actors import cluster

    head = cluster.head() if config.actors.ray_address else ""
    return *cluster.raylet(), head, path, cluster.own_head()


def disconnect(config: Config) -> None:
    """Leaves Ray; ends what `connect` started."""
    if config.actors.runtime == "ray":
        from actors import cluster

        cluster.disconnect()
