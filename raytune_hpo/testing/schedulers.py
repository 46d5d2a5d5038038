"""What every scheduler has to do."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import pytest

from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision, Drop, Fork, Move, Resume, Scheduler
from raytune_hpo.space import Float, SearchSpace
from raytune_hpo.trial import Config, Outcome, Result, TrialState

_STEPS = 27
"""Reports of a trial that nobody stops."""


class SchedulerContract(ABC):
    """Tests of the scheduler protocol; a subclass gives ``make`` and pytest does the rest.

    The simulated trials search ``x`` in [0, 1], make a checkpoint at each step, and report ``loss``
    (to minimize) and ``epoch``, which is equal to the step.
    """

    compares: ClassVar[bool] = True
    """Whether trials are cut only in comparison with others."""

    @abstractmethod
    def make(self, space: SearchSpace, objective: Objective) -> Scheduler:
        """Return a new scheduler for at most 27 steps a trial, always with the same seed."""

    def test_decides_on_every_result(self) -> None:
        """Each result gets a Decision, and moves concern trials that they can concern."""
        calls = _Run(self.new(), seed=0).all()
        assert all(isinstance(call.decision, Decision) for call in calls.results)
        assert {call.trial for call in calls.results} == set(calls.configs)

    def test_same_calls_same_decisions(self) -> None:
        """The decisions follow from the calls alone: no clock, and no chance but the seed's."""
        assert _Run(self.new(), seed=1).all().log == _Run(self.new(), seed=1).all().log

    def test_replay_goes_on_alike(self) -> None:
        """A new scheduler that was told the first half again decides on the second half alike."""
        whole = _Run(self.new(), seed=2)
        whole.all()
        for half in (len(whole.log) // 3, len(whole.log) // 2):
            again = self.new()
            _tell(again, whole.log[:half])
            rest = _Run(again, seed=2, log=whole.log[:half])
            assert rest.all().log == whole.log

    def test_instances_share_nothing(self) -> None:
        """What one scheduler was told does not change what another one decides."""
        alone = _Run(self.new(), seed=3).all().log
        other = self.new()
        _Run(self.new(), seed=4).all()
        assert alone == _Run(other, seed=3).all().log

    def test_direction_is_obeyed(self) -> None:
        """Maximizing the negated values leads to the same decisions as minimizing the values."""
        down = _Run(self.new(), seed=5).all()
        up = _Run(self.make(_space(), Objective.of("loss", "max")), seed=5, sign=-1.0).all()
        assert down.decided() == up.decided()

    def test_lone_trial_is_never_cut(self) -> None:
        """With nobody to compare to, a trial goes on until it has used its budget."""
        if not self.compares:
            pytest.skip("this scheduler says that it judges a trial by itself")
        run = _Run(self.new(), seed=6, trials=1, parallel=1).all()
        assert max(call.step for call in run.results) >= _STEPS - 1
        assert Decision.STOP not in {call.decision for call in run.results}

    def test_every_end_is_accepted(self) -> None:
        """A trial may end in any way, before or after its first result."""
        scheduler = self.new()
        states = [state for state in TrialState if state.finished]
        for trial, state in enumerate([*states, *states]):
            scheduler.on_trial(trial, {"x": 0.5}, None)
            values = None
            if trial >= len(states):
                scheduler.on_result(_result(trial, 1, 0.5))
                values = (0.5,)
            scheduler.on_end(trial, Outcome(state=state, values=values, step=1))
        assert not isinstance(scheduler.next_move([], more=True), Resume | Drop)

    def test_asking_for_a_move_changes_nothing(self) -> None:
        """``next_move`` says the same when asked again."""
        run = _Run(self.new(), seed=7, trials=9)
        asked = 0
        while run.step():
            for more in (True, False):
                paused = sorted(run.paused)
                answers = [run.scheduler.next_move(paused, more=more) for _ in range(3)]
                assert answers[0] == answers[1] == answers[2]
                asked += 1
        assert asked
        assert run.log == _Run(self.new(), seed=7, trials=9).all().log

    def test_best_trial_survives(self) -> None:
        """A trial that is best at every step is never cut before its last step."""
        run = _Run(self.new(), seed=8, best=3).all()
        last = max(call.step for call in run.results if call.trial == 3)
        assert last >= _STEPS - 1
        assert Decision.STOP not in {c.decision for c in run.results if c.trial == 3}

    def test_any_number_of_workers_ends(self) -> None:
        """All trials come to an end, whatever the number of trials that run at once."""
        for parallel in (1, 2, 5, 30):
            run = _Run(self.new(), seed=9, parallel=parallel).all()
            assert not run.running
            assert set(run.ended) | run.paused == set(run.configs)
            assert len([c for c in run.parents.values() if c is None]) == run.trials

    def test_failures_harm_nobody_else(self) -> None:
        """With half of the trials failing at once, the others still end, one at its last step."""
        run = _Run(self.new(), seed=10, failing=2).all()
        assert not run.running
        assert max(call.step for call in run.results) >= _STEPS - 1

    def test_steps_that_come_again_change_nothing(self) -> None:
        """A trial that lost its last checkpoints reports steps again; nobody is judged by them."""
        plain = _Run(self.new(), seed=11, parallel=1).all()
        again = _Run(self.new(), seed=11, parallel=1, repeating=True).all()
        assert [c for c in again.decided() if not c.again] == plain.decided()

    def new(self) -> Scheduler:
        """Return a new scheduler for one goal."""
        return self.make(_space(), Objective.of("loss", "min"))


class _Call(NamedTuple):
    """A result and what was decided."""

    trial: int
    step: int
    value: float
    decision: Decision
    again: bool = False


_Entry = tuple[str, int, object]
"""What happened, to which trial, and more of it."""


@dataclass
class _Run:
    """An engine on virtual time: trials of different speeds, in a fixed order."""

    scheduler: Scheduler
    seed: int
    trials: int = 12
    parallel: int = 4
    sign: float = 1.0
    best: int | None = None
    failing: int | None = None
    repeating: bool = False
    log: list[_Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.results: list[_Call] = []
        self.running: dict[int, float] = {}
        self.paused: set[int] = set()
        self.ended: dict[int, TrialState] = {}
        self.configs: dict[int, Config] = {}
        self.parents: dict[int, int | None] = {}
        self.steps: dict[int, int] = {}
        self._now = 0.0
        self._again: dict[int, int] = {}
        told, self.log = self.log, []
        self._told = iter(told)

    def all(self) -> _Run:
        """Run to the end."""
        for _ in range(100_000):
            if not self.step():
                return self
        raise AssertionError("the run does not end")

    def decided(self) -> list[_Call]:
        """Return the results and decisions, without the sign of the values."""
        return [call._replace(value=0.0) for call in self.results]

    def step(self) -> bool:
        """Let one thing happen; return whether there was any."""
        while len(self.running) < self.parallel and self._start():
            pass
        if not self.running:
            return False
        trial = min(self.running, key=lambda trial: (self.running[trial], trial))
        self._now = self.running[trial]
        self._report(trial)
        return True

    def _start(self) -> bool:
        proposed = sum(parent is None for parent in self.parents.values())
        more = proposed < self.trials
        move = self._move(more)
        if isinstance(move, Resume):
            assert move.trial in self.paused
            self.paused.remove(move.trial)
            self._go(move.trial)
            return True
        if isinstance(move, Drop):
            assert move.trial in self.paused
            self.paused.remove(move.trial)
            self._end(move.trial, TrialState.PRUNED)
            return True
        if isinstance(move, Fork):
            assert move.parent in self.configs
            self._new(move.config, move.parent)
            return True
        if more:
            self._new({"x": _chance(self.seed, len(self.configs))}, None)
        return more

    def _move(self, more: bool) -> Move | None:
        move = self._next()
        if move is not None:
            found = move[2]
            assert found is None or isinstance(found, Resume | Drop | Fork)
        else:
            found = self.scheduler.next_move(sorted(self.paused), more=more)
        self.log.append(("move", -1, found))
        return found

    def _next(self) -> _Entry | None:
        """Return what is known to have happened next, or None."""
        return next(self._told, None)

    def _new(self, config: Config, parent: int | None) -> None:
        trial = len(self.configs)
        if self._next() is None:
            self.scheduler.on_trial(trial, config, parent)
        self.log.append(("trial", trial, (config, parent)))
        self.configs[trial], self.parents[trial] = config, parent
        self.steps[trial] = 0 if parent is None else self.steps[parent]
        self._go(trial)

    def _go(self, trial: int) -> None:
        if self.repeating and self.steps[trial] > 1:
            self._again[trial] = self.steps[trial]
            self.steps[trial] -= 1
        self.running[trial] = self._now + _speed(self.seed, trial)

    def _report(self, trial: int) -> None:
        if self.failing and trial % self.failing == 1 and self.parents[trial] is None:
            self._end(trial, TrialState.FAILED)
            return
        self.steps[trial] += 1
        step = self.steps[trial]
        value = self.sign * self._value(trial, step)
        entry = self._next()
        if entry is None:
            decision = self.scheduler.on_result(_result(trial, step, value))
        else:
            assert isinstance(entry[2], tuple)
            decision = entry[2][2]
        self.log.append(("result", trial, (step, value, decision)))
        again = step <= self._again.get(trial, 0)
        self.results.append(_Call(trial, step, value, decision, again))
        if decision is Decision.PAUSE:
            del self.running[trial]
            self.paused.add(trial)
        elif decision is Decision.STOP:
            self._end(trial, TrialState.PRUNED)
        elif decision is Decision.COMPLETE or step >= _STEPS:
            self._end(trial, TrialState.COMPLETED)
        else:
            self.running[trial] += _speed(self.seed, trial)

    def _value(self, trial: int, step: int) -> float:
        if trial == self.best:
            return -1.0 - step
        level = float(self.configs[trial]["x"])
        return level + _chance(self.seed, 1000 + 100 * trial + step) / step

    def _end(self, trial: int, state: TrialState) -> None:
        self.running.pop(trial, None)
        self.ended[trial] = state
        steps = self.steps[trial]
        values = (self.sign * self._value(trial, steps),) if steps else None
        values = None if state is TrialState.FAILED else values
        outcome = Outcome(state, values, step=steps)
        if self._next() is None:
            self.scheduler.on_end(trial, outcome)
        self.log.append(("end", trial, outcome))


def _tell(scheduler: Scheduler, log: Sequence[_Entry]) -> None:
    """Tell a scheduler what happened, as a journal would; it is not asked for moves again."""
    for kind, trial, more in log:
        if kind == "trial":
            assert isinstance(more, tuple)
            scheduler.on_trial(trial, *more)
        elif kind == "result":
            assert isinstance(more, tuple)
            assert scheduler.on_result(_result(trial, more[0], more[1])) is more[2]
        elif kind == "end":
            assert isinstance(more, Outcome)
            scheduler.on_end(trial, more)


def _space() -> SearchSpace:
    return SearchSpace({"x": Float(0, 1)})


def _result(trial: int, step: int, loss: float) -> Result:
    return Result(trial, step, (loss,), {"loss": loss, "epoch": step}, checkpoint=True)


def _chance(seed: int, number: int) -> float:
    return random.Random(f"{seed} {number}").random()


def _speed(seed: int, trial: int) -> float:
    return 0.5 + _chance(seed, 500 + trial)
