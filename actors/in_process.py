"""Experience made in the learner's own process: no Ray, bit-for-bit repeatable."""

from collections.abc import Mapping

from actors.server import ServerSpec, UnrollServer
from agents.networks import Params
from agents.trajectory import SourceFailed, Unroll


class InProcessSource:
    """Plays the schedule of `actors.mode=strict` without any other process.

    Batch b is played with the parameters of update b - 1 (batch 0 with the first ones), by the
    servers in turn, so a run equals a strict one on Ray with as many actors.
    """

    def __init__(
        self, spec: ServerSpec, *, count: int, unrolls_per_batch: int, first_serial: int
    ) -> None:
        try:
            self._servers = [UnrollServer(spec, first_serial + i) for i in range(count)]
        except Exception as error:  # whatever a third party's environment raises
            cause = f"{type(error).__name__}: {error}"
            raise SourceFailed(f"{spec.environment.game} cannot be started: {cause}") from error
        self._per_batch = unrolls_per_batch
        self._calls = 0
        self._published: list[tuple[Params, int]] = []  # the newest two

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
                cause = f"{type(error).__name__}: {error}"
                raise SourceFailed(f"{server.name} failed: {cause}") from error
            self._calls += 1
        return batch

    def statistics(self) -> Mapping[str, float]:
        """See `ExperienceSource`."""
        return {"actors/alive": len(self._servers), "actors/restarts": 0, "actors/dropped": 0}

    def close(self) -> None:
        """See `ExperienceSource`."""
        for server in self._servers:
            server.close()
        self._servers = []
