"""The Ray of a run's own RayJob: workers come as there is use for them."""

from __future__ import annotations

from pathlib import Path

from raytune_hpo.cluster.base import Room
from raytune_hpo.cluster.kuberay.inside import Inside
from raytune_hpo.cluster.local import LocalRay


class KubeRay(LocalRay):
    """Connects to the Ray of this pod, and has its autoscaler bring and take workers.

    Ray's autoscaler goes by what cannot be placed. Trials here start when there is room for them,
    and not before, so that each is proposed with what all earlier ones have shown; so it is asked
    for machines instead.

    Args:
        inside: Where this process is.
    """

    def __init__(self, inside: Inside) -> None:
        super().__init__()
        self._room = inside.room
        self._asked: int | None = None

    def connect(self, log: Path) -> None:
        """Connect this process to Ray, and ask for all workers that there may be.

        Raises:
            InfrastructureError: Ray does not answer.
        """
        super().connect(log)
        self._ask(self._room.machines)

    def room(self) -> Room | None:
        """Return what a worker has, and how many there may be."""
        return self._room

    def note(self, busy: frozenset[str], *, wanting: bool) -> None:
        """Ask for all workers while trials wait for room, and for those in use when none does."""
        self._ask(self._room.machines if wanting else len(busy))

    def _ask(self, machines: int) -> None:
        if machines == self._asked:
            return
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=[bundle(self._room)] * machines)
        self._asked = machines


def bundle(room: Room) -> dict[str, float]:
    """Return what fits on a new worker once, by Ray's names, for the autoscaler.

    Without the memory where there is anything else: what Ray finds of it may be a little less.
    """
    there = {name: amount for name, amount in room.machine.items() if amount > 0}
    return {name: amount for name, amount in there.items() if name != "memory"} or there
