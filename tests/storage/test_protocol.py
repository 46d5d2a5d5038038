"""Thousands of schedules of drivers at a store with faults keep the promises; broken ones fail."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, fields

import pytest

from raytune_hpo.storage import segments
from raytune_hpo.storage.objects import Objects
from raytune_hpo.storage.segments import Segment, Writer
from tests.storage import simulated
from tests.storage.simulated import Counts, World

pytestmark = pytest.mark.faults

SCHEDULES = int(os.environ.get("RAYTUNE_HPO_STORE_SCHEDULES", "3000"))
FIRST_SEED = int(os.environ.get("RAYTUNE_HPO_STORE_SCHEDULES_SEED", "0"))
MUTANT_SEEDS = 1000
"""A planted bug has to be caught within so many schedules."""


def test_every_schedule_keeps_the_promises() -> None:
    total = Counts()
    for seed in range(FIRST_SEED, FIRST_SEED + SCHEDULES):
        try:
            world = simulated.examine(seed)
        except AssertionError as error:
            pytest.fail(f"seed {seed}: {error}")
        for item in fields(Counts):
            setattr(total, item.name, getattr(total, item.name) + getattr(world.counts, item.name))
    print(asdict(total))
    # They are no calm ones.
    assert total.acknowledged > 5 * SCHEDULES
    assert total.late > SCHEDULES
    for count in asdict(total).values():
        assert count > SCHEDULES / 100


def test_a_schedule_follows_from_its_seed() -> None:
    for seed in range(50):
        one, other = simulated.examine(seed), simulated.examine(seed)
        assert one.content == other.content
        assert one.counts == other.counts


# Planted bugs: the simulation has to find each of them


def _overwrites(self: Objects, key: str, data: bytes) -> bool:
    self.put(key, data)
    return True


def _takes_any_object_for_its_own(self: Objects, key: str, data: bytes) -> bool:
    _CREATE(self, key, data)
    return True


def _takes_each_object_for_anothers(self: Objects, key: str, data: bytes) -> bool:
    if self.get(key) is not None:
        return False
    return _CREATE(self, key, data)


def _does_not_read_back(self: Objects, key: str, data: bytes) -> bool:
    from raytune_hpo.storage.objects import Exists

    try:
        self._write(lambda: self._backend.create(key, data))
    except Exists:
        return False
    return True


def _does_not_seal(objects: Objects, segment: Segment, by: str) -> Segment:
    return segments.read_on(objects, segment)


def _seals_with_what_it_read_before(objects: Objects, segment: Segment, by: str) -> Segment:
    read = segments.read_on(objects, segment)
    sealed = _SEAL(objects, read, by)
    return Segment(sealed.session, read.data, sealed.following, sealed=True)


def _rolls_without_a_claim(self: Writer) -> None:
    segments.seal(self._objects, self._own, self._me)
    self._own = Segment(self._own.session + 1)


def _reads_no_further(objects: Objects, every: list[Segment]) -> list[Segment]:
    return [segments.read_on(objects, one) for one in every]


_CREATE = Objects.create
_SEAL = segments.seal
BUGS: list[tuple[object, str, Callable[..., object]]] = [
    (Objects, "create", _overwrites),
    (Objects, "create", _takes_any_object_for_its_own),
    (segments, "seal", _does_not_seal),
    (segments, "seal", _seals_with_what_it_read_before),
    (segments, "settled", _reads_no_further),
    (Writer, "_go_on_in_the_next", _rolls_without_a_claim),
]


@pytest.mark.parametrize(("place", "name", "bug"), BUGS, ids=[bug[2].__name__ for bug in BUGS])
def test_a_planted_bug_is_found(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, bug: Callable[..., object]
) -> None:
    monkeypatch.setattr(place, name, bug)
    for seed in range(MUTANT_SEEDS):
        try:
            simulated.examine(seed)
        except AssertionError:
            return
    pytest.fail(f"{bug.__name__} was not found in {MUTANT_SEEDS} schedules")


@pytest.mark.parametrize("way", [_takes_each_object_for_anothers, _does_not_read_back])
def test_doubt_about_an_own_object_costs_a_driver_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, way: Callable[..., object]
) -> None:
    """Reading back is for going on; without it more drivers end, and still nothing is lost."""

    def ended(world: World) -> int:
        return world.counts.superseded + world.counts.refused

    normal = sum(ended(simulated.examine(seed)) for seed in range(300))
    monkeypatch.setattr(Objects, "create", way)
    assert sum(ended(simulated.examine(seed)) for seed in range(300)) > normal
