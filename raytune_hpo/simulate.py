"""The engine on a virtual clock: no Ray, no waiting, the same decisions.

A trial is a Python generator function: it gets the config and yields ``(seconds, metrics)`` for
each report; it may raise to fail. Used by tests, benchmarks and plans.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from raytune_hpo.engine import FIRST_TRIAL_HOLD_S, Engine, Start
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import MemoryJournal, Record
from raytune_hpo.leaving import Limit
from raytune_hpo.plugins import auto_searcher, make_scheduler, make_searcher
from raytune_hpo.schedulers.base import Decision, Scheduler
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.state import VERSION, RunState
from raytune_hpo.suggestions import Suggestions
from raytune_hpo.trial import Config, Failure, FailureKind

TrialSteps = Callable[[Config], Iterable[tuple[float, dict[str, Any]]]]


@dataclass
class VirtualClock:
    """A clock that is set by hand, in seconds."""

    now_s: float = 0.0

    def monotonic(self) -> float:
        """Return the virtual time in seconds."""
        return self.now_s


@dataclass(order=True)
class _Due:
    at_s: float
    order: int
    start: Start = field(compare=False)
    steps: Iterator[tuple[float, dict[str, Any]]] = field(compare=False)
    metrics: dict[str, Any] | None = field(compare=False)
    failure: Failure | None = field(compare=False, default=None)


class Simulation:
    """One session of a run in virtual time.

    Args:
        experiment: What to run; ``experiment.parallel`` trials run at once, 1 when it says nothing.
        steps: Makes the reports of a trial.
        records: The journal of earlier sessions, to go on from.
        clock: Shared by the sessions of one run.
        time_limit_s: Of this session; default: the experiment's.
        searcher: New; default: the experiment's.
        scheduler: New; default: the experiment's.
        checkpoints: Each report makes a checkpoint. A trial that goes on, or was forked, skips in
            no time the reports up to it.
        limit: When the machines are taken away, or None.
        hold_s: Other trials wait at most so long for the first one to show its metric, and no
            longer than its first report takes.
        suggestions: Says how the searcher is called.

    Example:
        >>> import raytune_hpo as rh
        >>> experiment = rh.Experiment.from_python(
        ...     run="noop", parameters={"x": rh.Float(0, 1)}, metric="loss", trials=3
        ... )
        >>> simulation = Simulation(experiment, lambda config: [(1.0, {"loss": config["x"]})])
        >>> simulation.run().finish.reason
        'trials'
    """

    def __init__(
        self,
        experiment: Experiment,
        steps: TrialSteps,
        *,
        records: Sequence[Record] = (),
        clock: VirtualClock | None = None,
        time_limit_s: float | None = None,
        limit: Limit | None = None,
        searcher: Searcher | None = None,
        scheduler: Scheduler | None = None,
        checkpoints: bool = False,
        hold_s: float = FIRST_TRIAL_HOLD_S,
        suggestions: Callable[[Searcher], Suggestions] = Suggestions,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.journal = MemoryJournal(self.clock.monotonic, records)
        self._steps = steps
        self._checkpoints = checkpoints
        self._due: list[_Due] = []
        self._order = itertools.count()
        if not self.journal.records:
            self.journal.append("experiment", **header(experiment))
        state = RunState.replay(self.journal.records)
        self.journal.append("session", **_session(experiment, len(state.sessions) + 1))
        self.engine = Engine(
            experiment,
            list(self.journal.records),
            searcher
            or make_searcher(
                state.algorithm,
                experiment.search_space,
                experiment.objectives,
                state.seed,
                experiment.search.settings,
            ),
            scheduler
            or make_scheduler(
                state.scheduler,
                experiment.search_space,
                experiment.objectives,
                state.seed,
                experiment.scheduler.settings,
            ),
            self.journal,
            self.clock,
            suggestions=suggestions,
            time_limit_s=time_limit_s,
            limit=limit,
            hold_s=hold_s,
        )

    def run(self, events: int | None = None) -> RunState:
        """Run to the end, or for a number of events, and return the state."""
        for done in itertools.count():
            self._fill()
            if not self._due or self.engine.finished or done == events:
                break
            self._happen(heapq.heappop(self._due))
        return self.engine.state

    def _fill(self) -> None:
        while (start := self.engine.next_start()) is not None:
            self.engine.on_begin(start.trial, start.attempt)
            self._next(start, self.reports(start))

    def reports(self, start: Start) -> Iterator[tuple[float, dict[str, Any]]]:
        """Return seconds and metrics of each report of an attempt.

        A subclass that trains something real overrides it and keeps what it trained under the names
        of checkpoints: report number s of trial t is ``trial t @s``.
        """
        done = 0 if start.checkpoint is None else int(start.checkpoint.partition("@")[2])
        return itertools.islice(self._steps(start.config), done, None)

    def _next(self, start: Start, steps: Iterator[tuple[float, dict[str, Any]]]) -> None:
        """Put the trial's next event on the heap."""
        metrics: dict[str, Any] | None = None
        failure = None
        after_s = 0.0
        try:
            after_s, metrics = next(steps, (0.0, None))
        except Exception as error:
            failure = Failure(FailureKind.EXCEPTION, f"{type(error).__name__}: {error}")
        at_s = self.clock.now_s + after_s
        heapq.heappush(self._due, _Due(at_s, next(self._order), start, steps, metrics, failure))

    def _happen(self, due: _Due) -> None:
        self.clock.now_s = due.at_s
        self.engine.tick()
        trial, attempt = due.start.trial, due.start.attempt
        if due.metrics is None:
            self.engine.on_end(trial, attempt, due.failure)
        elif self._report(trial, attempt, due.metrics) is Decision.CONTINUE:
            self._next(due.start, due.steps)

    def _report(self, trial: int, attempt: int, metrics: dict[str, Any]) -> Decision:
        step = self.engine.state.trials[trial].step + 1
        checkpoint = f"trial {trial} @{step}" if self._checkpoints else None
        return self.engine.on_report(trial, attempt, metrics, checkpoint)


def header(experiment: Experiment) -> dict[str, Any]:
    """Return the fields of the ``experiment`` record of a simulated run."""
    algorithm = experiment.search.algorithm
    if algorithm == "auto":
        space, objective = experiment.search_space, experiment.objectives
        algorithm, _ = auto_searcher(
            space, objective, experiment.trials, experiment.scheduler.algorithm
        )
    return {
        "version": VERSION,
        "id": "0" * 32,
        "name": experiment.name or "simulation",
        "spec": experiment.to_json(),
        "seed": experiment.search.seed or 0,
        "algorithm": algorithm,
        "scheduler": experiment.scheduler.algorithm,
        "source": None,
        "folder": None,
        "environment": {},
    }


def _session(experiment: Experiment, number: int) -> dict[str, Any]:
    return {
        "session": number,
        "host": "simulation",
        "pid": 0,
        "run_dir": "",
        "trials": experiment.trials,
        "parallel": experiment.parallel or 1,
        "resources": {},
    }
