"""Experience made in the learner's own process: no Ray, bit-for-bit repeatable."""

from collections.abc import Iterator, Mapping

import jax
import numpy as np

from actors.environments.vector import told
from actors.server import ServerSpec, UnrollServer, under
from agents.networks import Params
from agents.trajectory import SourceFailed, Unroll


class InProcessSource:
    """Plays the schedule of `actors.mode=strict` without any other process.

    Batch b is played with the parameters of update b - 1 (batch 0 with the first ones), by the
    servers in turn, so a run equals a strict one on Ray with as many actors.
    """

    def __init__(
        self, spec: ServerSpec, serials: Iterator[int], *, count: int, unrolls_per_batch: int
    ) -> None:
        try:
            self._servers = [UnrollServer(spec, next(serials)) for _ in range(count)]
        except Exception as error:  # whatever a third party's environment raises
            reason = f"{spec.environment.game} cannot be started: {told(error)}"
            raise SourceFailed(reason) from error
        self._per_batch = unrolls_per_batch
        self._calls = 0
        self._published: list[tuple[Params, int]] = []  # the newest two

    @property
    def servers(self) -> int:
        """How many play."""
        return len(self._servers)

    def publish(self, params: Params, version: int) -> None:
        """See `ExperienceSource`."""
        self._published = [*self._published, (params, version)][-2:]

    def next_batch(self, timeout_seconds: float) -> list[Unroll]:
        """See `ExperienceSource`; plays the batch, however long that takes.

        Raises:
            SourceFailed: an environment raised. There is no other process to play on in.
        """
        del timeout_seconds
        params, version = self._published[0]
        batch = []
        for _ in range(self._per_batch):
            server = self._servers[self._calls % len(self._servers)]
            try:
                batch.append(server.unroll(params, version))
            except Exception as error:  # whatever a third party's environment raises
                raise SourceFailed(f"{server.name} failed: {told(error)}") from error
            self._calls += 1
        return batch

    def save(self) -> dict[str, np.ndarray] | None:
        """See `ExperienceSource`; None where the environments cannot be saved."""
        servers = [server.save() for server in self._servers]
        saved = {"calls": np.asarray(self._calls)}
        for index, server in enumerate(servers):
            if server is None:
                return None
            saved |= {f"server/{index}/{name}": value for name, value in server.items()}
        for params, version in self._published[:1]:  # the newest ones are published again
            saved["version"] = np.asarray(version)
            leaves = jax.tree.leaves(jax.device_get(params))
            saved |= {f"params/{index}": leaf for index, leaf in enumerate(leaves)}
        return saved

    def restore(self, saved: dict[str, np.ndarray], like: Params) -> None:
        """Goes on from what `save` gave.

        Args:
            saved: of a source with as many servers.
            like: parameters of the same structure.
        """
        self._calls = int(saved["calls"])
        for index, server in enumerate(self._servers):
            server.restore(under(f"server/{index}/", saved))
        if "version" in saved:
            structure = jax.tree.structure(like)
            leaves = [saved[f"params/{index}"] for index in range(structure.num_leaves)]
            self._published = [(jax.tree.unflatten(structure, leaves), int(saved["version"]))]

    def statistics(self) -> Mapping[str, float]:
        """See `ExperienceSource`."""
        return {"actors/alive": len(self._servers), "actors/restarts": 0, "actors/dropped": 0}

    def close(self) -> None:
        """See `ExperienceSource`."""
        for server in self._servers:
            server.close()
        self._servers = []
