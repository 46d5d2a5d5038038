"""Drivers and readers of one journal in a simulated store, in any order that a seed asks for.

Each has a thread, and only one of them runs at a time: at each call of the store it waits until it
is chosen again. The store loses answers and requests, delays them, and carries them out twice.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raytune_hpo import journal
from raytune_hpo.errors import RunLockedError, StoreError
from raytune_hpo.journal import Record
from raytune_hpo.storage import segments
from raytune_hpo.storage.objects import Objects
from raytune_hpo.storage.segments import Segment, Writer

ROLL = 3
URL = "memory://simulated"


class Killed(BaseException):
    """What kills an actor."""


@dataclass
class Counts:
    """What has happened, to see that the schedules are no calm ones."""

    acknowledged: int = 0
    superseded: int = 0
    killed: int = 0
    gave_up: int = 0
    late: int = 0
    refused: int = 0
    rolled: int = 0
    started_over: int = 0


@dataclass
class World:
    """A store, its faults, and who uses it.

    Attributes:
        acknowledged: Records that a driver was told to be safe.
        seen: Histories that readers, and drivers at their start, have seen.
    """

    seed: int
    faults: float = 0.25
    content: dict[str, bytes] = field(default_factory=dict)
    delayed: list[Callable[[], None]] = field(default_factory=list)
    acknowledged: list[Record] = field(default_factory=list)
    seen: list[list[Record]] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.actors: list[Actor] = []

    def run(self) -> None:
        """Run all actors to their end."""
        while there := [actor for actor in self.actors if not actor.over]:
            if self.delayed and self.chance.random() < 0.2:
                self.arrive()
            actor = self.chance.choice(there)
            if self.chance.random() < actor.mortality:
                actor.doomed = True
                self.counts.killed += 1
            actor.go_on()
        while self.delayed:
            self.arrive()

    def arrive(self) -> None:
        """Carry out something that was sent long ago."""
        self.counts.late += 1
        self.delayed.pop(self.chance.randrange(len(self.delayed)))()


class Actor:
    """Something that runs when it is chosen, until its next call of the store."""

    def __init__(self, world: World, work: Callable[[Actor], None], mortality: float) -> None:
        self.world = world
        self.mortality = mortality
        self.doomed = False
        self.over = False
        self._may = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._work = work
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        world.actors.append(self)

    def go_on(self) -> None:
        """Let it run until it waits again."""
        self._may.release()
        self._back.acquire()
        if self.over:
            self._thread.join()
            if self.error is not None:
                raise self.error

    def wait(self) -> None:
        """Wait to be chosen; called by the actor itself."""
        self._back.release()
        self._may.acquire()
        if self.doomed:
            raise Killed

    def _run(self) -> None:
        self._may.acquire()
        try:
            if not self.doomed:
                self._work(self)
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.over = True
            self._back.release()


class Calls:
    """The store as one actor sees it: a ``Backend``."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._world = actor.world

    def get(self, key: str) -> bytes:
        self._read()
        if key not in self._world.content:
            raise FileNotFoundError(key)
        return self._world.content[key]

    def list(self, folder: str) -> list[str]:
        self._read()
        return [key for key in self._world.content if key.startswith(f"{folder}/")]

    def put(self, key: str, data: bytes) -> None:
        self._write(lambda: self._world.content.__setitem__(key, data))

    def create(self, key: str, data: bytes) -> None:
        def create() -> None:
            if key in self._world.content:
                raise FileExistsError(key)
            self._world.content[key] = data

        self._write(create)

    def delete(self, keys: Sequence[str]) -> None:
        raise NotImplementedError

    def upload(self, path: Path, key: str) -> None:
        raise NotImplementedError

    def download(self, key: str, path: Path) -> None:
        raise NotImplementedError

    def copy(self, source: str, target: str) -> None:
        raise NotImplementedError

    def _read(self) -> None:
        self._actor.wait()
        if self._world.chance.random() < self._world.faults / 4:
            raise TimeoutError("no answer")

    def _write(self, act: Callable[[], None]) -> None:
        self._actor.wait()
        chance = self._world.chance
        if chance.random() >= self._world.faults:
            act()
            return
        fault = chance.choice(["lost answer", "lost request", "delayed", "twice"])
        if fault == "delayed":
            self._world.delayed.append(_quietly(act))
        elif fault == "twice":
            self._world.delayed.append(_quietly(act))
            act()
            return
        elif fault == "lost answer":
            _quietly(act)()
        raise TimeoutError(fault)


def _quietly(act: Callable[[], None]) -> Callable[[], None]:
    def quiet() -> None:
        try:
            act()
        except FileExistsError:
            return

    return quiet


class OneByOne(Objects):
    """Objects without threads of their own."""

    def get_all(self, keys: Iterable[str]) -> list[bytes | None]:
        return [self.get(key) for key in keys]


def objects_of(actor: Actor) -> Objects:
    """Return the journal's objects as an actor sees them; now and then it gives up."""
    chance = actor.world.chance
    return OneByOne(
        URL,
        Calls(actor),
        patience=1e9,
        given_up=lambda: chance.random() < 0.1,
        sleep=lambda seconds: None,
    )


def drive(actor: Actor, name: str, batches: int) -> None:
    """Take the run over as a driver does, whoever holds it, and write some batches."""
    world, objects = actor.world, objects_of(actor)
    try:
        _drive(world, objects, name, batches)
    except StoreError:
        world.counts.gave_up += 1
    except RunLockedError:
        world.counts.superseded += 1


def _drive(world: World, objects: Objects, name: str, batches: int) -> None:
    def claim(session: int) -> bool:
        world.counts.rolled += session != own
        return objects.create(segments.session_key(session), f'{{"id": "{name}"}}'.encode())

    claimed = segments.sessions(objects)
    own = claimed[-1] + 1 if claimed else 1
    if not claim(own):
        world.counts.refused += 1
        return
    earlier = [segments.seal(objects, Segment(number), name) for number in claimed]
    records = history(earlier)
    note(world, records)
    if records and not any(record["type"] == "session" for record in records):
        # Nothing of it ever ran: see ``StoreJournal.start_over``.
        for one in earlier:
            if one.data:
                segments.rewrite(objects, one, b"")
        records = []
        world.counts.started_over += 1
    writer = Writer(objects, own, name, claim, roll=ROLL)
    following = len(records)
    unsafe: list[Record] = []
    kinds = (["experiment"] if not records else []) + ["session"] + ["report"] * batches
    for kind in kinds:
        batch = []
        for _ in range(1 if kind != "report" else world.chance.randrange(1, 4)):
            batch.append({"n": following, "type": kind, "by": name})
            following += 1
        writer.add(b"".join(map(journal.encode, batch)))
        unsafe += batch
        if kind != "experiment":
            world.acknowledged += unsafe
            world.counts.acknowledged += len(unsafe)
            unsafe = []


def read(actor: Actor, times: int) -> None:
    """Read the journal again and again, as ``status`` does."""
    objects = objects_of(actor)
    for _ in range(times):
        try:
            note(actor.world, history(segments.read_all(objects)))
        except StoreError:
            continue


def note(world: World, records: list[Record]) -> None:
    if any(record["type"] == "session" for record in records):
        world.seen.append(records)


def history(every: list[Segment]) -> list[Record]:
    """Return the records of sessions, by the rule of ``journal``: up to where the next begins."""
    filled = [one.data.splitlines() for one in every if one.data]
    records: list[Record] = []
    for index, lines in enumerate(filled):
        decoded = [journal.decode(line) for line in lines]
        end = None
        if index + 1 < len(filled):
            following = journal.decode(filled[index + 1][0])
            assert following is not None
            end = following["n"]
        for record in decoded:
            assert record is not None
            if len(records) == end:
                break
            assert record["n"] == len(records), "a gap, or two histories"
            records.append(record)
        assert end is None or len(records) == end, "records are missing"
    return records


def final(world: World) -> list[Record]:
    """Return the journal as it is in the end."""
    world.faults = 0.0
    found: list[list[Record]] = []
    Actor(world, lambda actor: found.append(history(segments.read_all(objects_of(actor)))), 0.0)
    world.run()
    return found[0]


def examine(seed: int) -> World:
    """Run one schedule and check what was promised.

    Raises:
        AssertionError: A promise was broken.
    """
    chance = random.Random(seed)
    world = World(seed, faults=chance.choice([0.0, 0.1, 0.3, 0.6]))
    mortality = chance.choice([0.0, 0.002, 0.02])
    for number in range(chance.randrange(1, 5)):
        batches = chance.randrange(0, 9)
        Actor(world, lambda a, n=number, b=batches: drive(a, f"driver {n}", b), mortality)  # type: ignore[misc]
    for _ in range(chance.randrange(0, 3)):
        Actor(world, lambda actor: read(actor, 4), 0.0)
    world.run()
    # Later ones come when all before are dead or done.
    for number in range(10, 10 + chance.randrange(0, 3)):
        Actor(world, lambda a, n=number: drive(a, f"driver {n}", 3), mortality)  # type: ignore[misc]
        world.run()
    check(world)
    return world


def check(world: World) -> None:
    """Check the promises on the final journal, by what drivers and readers have seen.

    Raises:
        AssertionError: A promise was broken.
    """
    records = final(world)
    for record in world.acknowledged:
        there = records[record["n"]] if record["n"] < len(records) else None
        assert there is not None, f"acknowledged and lost: {record}"
        assert there["by"] == record["by"], f"acknowledged to two: {record} {there}"
        assert there["type"] == record["type"]
    for seen in world.seen:
        assert seen == records[: len(seen)], "a reader has seen another history"
