"""What every scheduler has to do."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator

from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.base import Decision, Scheduler
from raytune_hpo.trial import Outcome, Result, TrialState

_STEPS = 27
"""Reports of a trial that nobody stops."""


class SchedulerContract(ABC):
    """Tests of the scheduler protocol; a subclass gives ``make`` and pytest does the rest.

    The simulated trials report ``loss`` (to minimize) once a step and, in the metrics, ``epoch``,
    which is equal to the step.
    """

    @abstractmethod
    def make(self, objective: Objective) -> Scheduler:
        """Return a new scheduler for at most 27 steps a trial."""

    def test_decides_on_every_result(self) -> None:
        """Each result gets a Decision, and only paused trials are resumed."""
        decisions, resumed = _run(self.make(_objective()), seed=0)
        assert decisions
        assert all(isinstance(decision, Decision) for _, _, decision in decisions)
        paused = Counter(trial for trial, _, decision in decisions if decision is Decision.PAUSE)
        assert Counter(resumed) <= paused

    def test_same_calls_same_decisions(self) -> None:
        """The decisions follow from the calls alone: no clock and no chance."""
        first = _run(self.make(_objective()), seed=1)
        assert first == _run(self.make(_objective()), seed=1)

    def test_replay_goes_on_alike(self) -> None:
        """A new scheduler that was told the first half again decides on the second half alike."""
        results = list(_interleaved(seed=2))
        half = len(results) // 2
        original, replayed = self.make(_objective()), self.make(_objective())
        _feed(original, results[:half])
        _feed(replayed, results[:half])
        assert _feed(original, results[half:]) == _feed(replayed, results[half:])

    def test_instances_share_nothing(self) -> None:
        """What one scheduler was told does not change what another one decides."""
        alone = _run(self.make(_objective()), seed=3)
        other = self.make(_objective())
        _run(self.make(_objective()), seed=4)
        assert alone == _run(other, seed=3)

    def test_direction_is_obeyed(self) -> None:
        """Maximizing the negated values leads to the same decisions as minimizing the values."""
        results = list(_interleaved(seed=5))
        negated = [_result(r.trial, r.step, -r.values[0]) for r in results]
        down, up = self.make(Objective.of("loss", "min")), self.make(Objective.of("loss", "max"))
        assert _feed(down, results) == _feed(up, negated)

    def test_lone_trial_is_never_cut(self) -> None:
        """With nobody to compare to, a trial goes on until it has used its budget."""
        scheduler = self.make(_objective())
        decisions = [scheduler.on_result(_result(0, step, 1.0 / step)) for step in range(1, _STEPS)]
        assert not {Decision.STOP, Decision.COMPLETE} & set(decisions)

    def test_every_end_is_accepted(self) -> None:
        """A trial may end in any way, before or after its first result."""
        scheduler = self.make(_objective())
        for trial, state in enumerate(state for state in TrialState if state.finished):
            scheduler.on_end(trial, Outcome(state=state))
        for trial, state in enumerate((s for s in TrialState if s.finished), start=10):
            scheduler.on_result(_result(trial, 1, 0.5))
            scheduler.on_end(trial, Outcome(state=state, values=(0.5,), step=1))
        assert scheduler.next_resume([]) is None

    def test_asking_what_to_resume_changes_nothing(self) -> None:
        """``next_resume`` gives one of the paused trials, the same when asked again, or None."""
        scheduler = self.make(_objective())
        results = list(_interleaved(seed=6))[:40]
        paused = {
            result.trial for result in results if scheduler.on_result(result) is Decision.PAUSE
        }
        answers = {scheduler.next_resume(sorted(paused)) for _ in range(3)}
        assert len(answers) == 1
        assert answers <= paused | {None}
        assert scheduler.next_resume([]) is None

    def test_best_trial_survives(self) -> None:
        """The trial that is best at every step is never cut before its last step."""
        scheduler = self.make(_objective())
        cut = set()
        for step in range(1, _STEPS):
            for trial in range(9):
                if trial in cut:
                    continue
                if scheduler.on_result(_result(trial, step, trial + 1 / step)) is Decision.STOP:
                    scheduler.on_end(trial, Outcome(TrialState.PRUNED, (float(trial),), step=step))
                    cut.add(trial)
        assert 0 not in cut


def _objective() -> Objective:
    return Objective.of("loss", "min")


def _result(trial: int, step: int, loss: float) -> Result:
    return Result(trial, step, (loss,), {"loss": loss, "epoch": step})


def _interleaved(seed: int) -> Iterator[Result]:
    """Yield the results of 12 trials that run side by side at different speeds."""
    chance = random.Random(seed)
    level = [chance.random() for _ in range(12)]
    steps = [0] * len(level)
    while min(steps) < _STEPS:
        trial = chance.choice([t for t, step in enumerate(steps) if step < _STEPS])
        steps[trial] += 1
        yield _result(trial, steps[trial], level[trial] + chance.random() / steps[trial])


def _feed(scheduler: Scheduler, results: list[Result]) -> list[Decision]:
    return [scheduler.on_result(result) for result in results]


def _run(scheduler: Scheduler, seed: int) -> tuple[list[tuple[int, int, Decision]], list[int]]:
    """Run trials as the engine does; return all decisions and the trials that were resumed."""
    decisions: list[tuple[int, int, Decision]] = []
    resumed: list[int] = []
    paused: set[int] = set()
    ended: set[int] = set()
    for result in _interleaved(seed):
        if result.trial in ended | paused:
            continue
        decision = scheduler.on_result(result)
        decisions.append((result.trial, result.step, decision))
        if decision is Decision.PAUSE:
            paused.add(result.trial)
        elif decision is not Decision.CONTINUE or result.step == _STEPS:
            stopped = decision is Decision.STOP
            state = TrialState.PRUNED if stopped else TrialState.COMPLETED
            scheduler.on_end(result.trial, Outcome(state, result.values, step=result.step))
            ended.add(result.trial)
        while (trial := scheduler.next_resume(sorted(paused))) is not None:
            resumed.append(trial)
            paused.remove(trial)
    return decisions, resumed
