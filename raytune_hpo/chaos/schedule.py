"""One schedule: a run on a virtual clock, with the faults that a list of small numbers asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from raytune_hpo.chaos import observed as seen
from raytune_hpo.chaos.simulated import (
    Choices,
    DriverDied,
    ModelJournal,
    Setup,
    SimulatedEngine,
    WatchedSearcher,
    loss,
    make_scheduler,
    make_searcher,
)
from raytune_hpo.engine import Engine
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.schedulers.base import Decision
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.simulate import VirtualClock, header
from raytune_hpo.trial import Config, Failure, FailureKind

CLOCK_JUMP_S = 3600.0
PAUSE_S = 15.0
"""So long nothing may be heard of any trial; longer than other trials wait for the first."""
MOST_EVENTS = 20_000
"""A schedule with more events than this does not end."""

_TIME_LIMITS_S = (*(None,) * 8, 4.0, 12.0, 30.0, 100.0)
_MORE_TRIALS = (*(0,) * 12, -1, 1, 2, 0)
_FAILURE_WORDS = ("disk", "memory", "shape", "value", "key", "index", "type", "link")
_RESUMED = frozenset({"interrupted", "time_limit"})
_NUMBERLESS: tuple[Any, ...] = (
    float("nan"),
    None,
    "oops",
    float("inf"),
    float("-inf"),
    True,
    "x" * 10_000,
    10**400,
    [0.1],
)
"""Values that no objective can be made of."""


@dataclass(eq=False)
class _Live:
    """An attempt that a worker has, or had."""

    trial: int
    attempt: int
    config: Config
    step: int
    due_s: float
    begun: bool = False
    checkpoint: str | None = None


@dataclass(frozen=True)
class _Promise:
    """An acknowledgement that waits for the disk: of a report with its answer, or of an end."""

    live: _Live
    answer: Decision | None


@dataclass(frozen=True)
class Run:
    """What came of a schedule.

    Attributes:
        observed: What the executor saw.
        records: The journal at the end.
        experiment: What was run.
    """

    observed: list[seen.Observation]
    records: list[Record]
    experiment: Experiment


class Schedule:
    """One run of an experiment to its end under the faults that the choices ask for.

    Args:
        choices: See ``nemesis``.
        clock_jumps: Whether the wall clock jumps where the choices say so.

    Attributes:
        engine_class: Class of the engine.
    """

    engine_class: ClassVar[type[Engine]] = SimulatedEngine

    def __init__(self, choices: Sequence[int], *, clock_jumps: bool = True) -> None:
        self.choices = Choices(choices)
        self.setup = Setup.choose(self.choices)
        self.observed: list[seen.Observation] = []
        self.clock = VirtualClock()
        self.journal = ModelJournal(self.wall_s, [], 0)
        self.session = 0
        self._clock_jumps = clock_jumps
        self._wall_ahead_s = 0.0
        self._live: list[_Live] = []
        self._over: list[_Live] = []
        self._promises: list[_Promise] = []
        # The checkpoints that are on disk.
        self._step_of: dict[str, int] = {}
        self._held = False

    def run(self) -> Run:
        """Run to the end and return what came of it."""
        over = False
        while True:
            self.session += 1
            try:
                reason = self._run_session()
            except DriverDied:
                self._bury()
                continue
            except Exception as error:
                self.note(seen.DriverFailed(self.session, f"{type(error).__name__}: {error}"))
                break
            self._end_session()
            if reason not in _RESUMED:
                # Somebody may start a driver once more although the run is over.
                if over or not self.choices.below(2):
                    break
                over = True
        return Run(self.observed, self.journal.records, self.setup.experiment)

    def note(self, observation: seen.Observation) -> None:
        """Add to the log."""
        self.observed.append(observation)

    def wall_s(self) -> float:
        """Return the wall clock's seconds."""
        return self.clock.now_s + self._wall_ahead_s

    # Sessions

    def _run_session(self) -> str:
        engine = self._open()
        for _ in range(MOST_EVENTS):
            self._fill(engine)
            if engine.finished:
                self.sync(engine)
                state = engine.state
                reason = state.finish.reason if state.finish is not None else ""
                self.note(seen.SessionFinished(self.session, self.clock.now_s, reason))
                return reason
            if not self._live:
                raise RuntimeError("nothing runs, nothing starts, and the run has not ended")
            if not self._ready():
                self.sync(engine)
            else:
                self._event(engine)
        raise RuntimeError("the session does not end")

    def _open(self) -> Engine:
        """Start a driver over what is left of the journal."""
        choices, experiment = self.choices, self.setup.experiment
        parallel = choices.below(16)
        parallel = experiment.parallel or 1 if not 0 < parallel < 6 else parallel
        trials = (experiment.trials or 1) + _MORE_TRIALS[choices.below(len(_MORE_TRIALS))]
        limit_s = _TIME_LIMITS_S[choices.below(len(_TIME_LIMITS_S))]
        records, durable = self.journal.records, self.journal.durable
        if not any(record["type"] == "session" for record in records):
            records, durable = [], 0
        self.journal = ModelJournal(self.wall_s, records, durable)
        self.journal.die_at(choices.below(48), keep=bool(choices.below(2)))
        self.note(seen.SessionStarted(self.session, self.clock.now_s, trials, parallel, limit_s))
        if not records:
            self.journal.append("experiment", **header(experiment))
        self.journal.append(
            "session",
            session=1 + sum(record["type"] == "session" for record in records),
            host="simulation",
            pid=0,
            run_dir="",
            trials=trials,
            parallel=parallel,
            resources={},
        )
        engine = self.make_engine(limit_s)
        self.note(seen.SessionReady(self.session))
        return engine

    def make_engine(self, time_limit_s: float | None) -> Engine:
        """Return an engine over the journal."""
        experiment = self.setup.experiment
        return self.engine_class(
            experiment,
            list(self.journal.records),
            WatchedSearcher(self.make_searcher(), self.session, self.note),
            make_scheduler(experiment),
            self.journal,
            self.clock,
            time_limit_s=time_limit_s,
            has_checkpoint=lambda path: path in self._step_of,
        )

    def make_searcher(self) -> Searcher:
        """Return a new searcher."""
        return make_searcher(self.setup.experiment)

    def _bury(self) -> None:
        """Take away what died with the driver, and what a power cut took."""
        journal = self.journal
        lost = min(self.choices.below(16), len(journal.records) - journal.durable)
        del journal.records[len(journal.records) - lost :]
        self.note(seen.DriverKilled(self.session, lost))
        self._end_session()

    def _end_session(self) -> None:
        self._over += self._live
        self._live, self._promises = [], []

    # Events

    def _fill(self, engine: Engine) -> None:
        """Have workers start what the engine wants started, once the disk has it."""
        starts = list(iter(engine.next_start, None))
        if not starts:
            return
        self.before_start(engine)
        for start in starts:
            step = 0 if start.checkpoint is None else self._step_of[start.checkpoint]
            self._live.append(
                _Live(start.trial, start.attempt, start.config, step, self.clock.now_s + 0.5)
            )
            self.note(
                seen.AttemptStarted(
                    self.session, start.trial, start.attempt, start.config, step, start.checkpoint
                )
            )

    def before_start(self, engine: Engine) -> None:
        """Make sure that no attempt runs of which the disk does not know."""
        self.sync(engine)

    def sync(self, engine: Engine) -> None:
        """Bring all records to disk, then keep the promises that waited for it."""
        self.journal.sync()
        self.keep_promises(engine)

    def keep_promises(self, engine: Engine) -> None:
        """Acknowledge what is on disk; trials whose report was taken go on."""
        promises, self._promises = self._promises, []
        for promise in promises:
            live = promise.live
            where = (self.session, live.trial, live.attempt)
            if promise.answer is None:
                self.note(seen.EndAcknowledged(*where))
                continue
            self.note(seen.ReportAcknowledged(*where, live.step, promise.answer.value))
            live.due_s = self.clock.now_s + 1.0 + live.config["x"]
            self._prune(live)
            if promise.answer is not Decision.CONTINUE:
                self._part(live)
        self._tell_to_stop(engine)

    def _prune(self, live: _Live) -> None:
        """Keep the newest checkpoints only, as a trial does whose report was acknowledged."""
        keep = self.setup.experiment.checkpoint.keep
        own = [path for path in self._step_of if path.startswith(f"trials/{live.trial}/")]
        if live.checkpoint is not None:
            older = own[: own.index(live.checkpoint) + 1]
            for path in older[:-keep]:
                del self._step_of[path]

    def _tell_to_stop(self, engine: Engine) -> None:
        for live in self._ready():
            if not engine.is_current(live.trial, live.attempt):
                self.note(seen.ToldToStop(self.session, live.trial, live.attempt))
                self._part(live)

    def _part(self, live: _Live) -> None:
        self._live.remove(live)
        self._over.append(live)

    def _ready(self) -> list[_Live]:
        """Return the attempts that do not wait for an acknowledgement, the next one first."""
        waiting = [promise.live for promise in self._promises]
        ready = [live for live in self._live if live not in waiting]
        return sorted(ready, key=lambda live: live.due_s)

    def _event(self, engine: Engine) -> None:
        """Let one thing happen."""
        action = _ACTIONS[self.choices.below(len(_ACTIONS))]
        self._held = False
        action(self, engine)
        self._tell_to_stop(engine)
        if not self._held:
            self.sync(engine)

    def _next(self, engine: Engine, skip: int = 0) -> _Live:
        """Return the attempt of which something comes next, after time has passed."""
        ready = self._ready()
        live = ready[skip % len(ready)]
        self._pass_time(engine, max(0.0, live.due_s - self.clock.now_s))
        return live

    def _pass_time(self, engine: Engine, seconds: float) -> None:
        self.clock.now_s += seconds
        engine.tick()

    def _go_on(self, engine: Engine, skip: int = 0) -> None:
        """The next thing comes of an attempt: it begins, reports, or ends well."""
        live = self._next(engine, skip)
        if not engine.is_current(live.trial, live.attempt):
            return
        if not live.begun:
            self._begin(engine, live)
        elif live.step < self.setup.steps_of(live.trial):
            self._report(engine, live, {"loss": loss(live.config, live.step + 1)})
        else:
            self._end(engine, live, self._own_failure(live))

    def _begin(self, engine: Engine, live: _Live) -> None:
        live.begun, live.due_s = True, self.clock.now_s + 0.5
        self.note(seen.AttemptBegan(self.session, live.trial, live.attempt))
        engine.on_begin(live.trial, live.attempt, "node", 1)
        # It is nobody's to acknowledge.
        self._held = True

    def _report(
        self, engine: Engine, live: _Live, metrics: dict[str, Any], *, twice: bool = False
    ) -> None:
        live.step += 1
        checkpoint = None
        if self.setup.has_checkpoint(live.trial, live.step):
            checkpoint = f"trials/{live.trial}/checkpoints/{live.attempt:03d}-{live.step:06d}"
            self._step_of[checkpoint] = live.step
        live.checkpoint = checkpoint
        answer = Decision.CONTINUE
        for again in (False, True) if twice else (False,):
            if answer is not Decision.CONTINUE:
                break
            where = (self.session, live.trial, live.attempt)
            self.note(seen.ReportMade(*where, live.step, metrics, checkpoint, again))
            answer = engine.on_report(live.trial, live.attempt, metrics, checkpoint)
        self._promises.append(_Promise(live, answer))

    def _end(self, engine: Engine, live: _Live, failure: Failure | None) -> None:
        how = seen.RETURNED if failure is None else failure.kind.value
        where = (self.session, live.trial, live.attempt)
        self.note(seen.AttemptEnded(*where, how, live.begun))
        self._part(live)
        engine.on_end(live.trial, live.attempt, failure)
        self._promises.append(_Promise(live, None))

    def _own_failure(self, live: _Live) -> Failure | None:
        """Return how a trial fails that fails every time, or None."""
        if not self.setup.raises(live.trial):
            return None
        # All trials that fail for the same reason end the run, so not all do.
        word = _FAILURE_WORDS[self.setup.fragile > 1 and live.trial % len(_FAILURE_WORDS)]
        return Failure(FailureKind.EXCEPTION, f"ValueError: {word}")

    # What may happen

    def _late(self, engine: Engine) -> None:
        """Something comes of another attempt first."""
        self._go_on(engine, 1 + self.choices.below(5))

    def _together(self, engine: Engine) -> None:
        """The disk is asked only after more has come."""
        self._go_on(engine, self.choices.below(5))
        self._held = True

    def _stale(self, engine: Engine) -> None:
        """Something comes of an attempt that is over."""
        which, what = self.choices.below(16), self.choices.below(4)
        if not self._over:
            return
        live = self._over[-1 - which % len(self._over)]
        where = (self.session, live.trial, live.attempt)
        if what == 0:
            answer = engine.on_report(live.trial, live.attempt, {"loss": -1.0})
            self.note(seen.StalePassedOn(*where, "report", answer.value))
        elif what == 1:
            engine.on_begin(live.trial, live.attempt)
            self.note(seen.StalePassedOn(*where, "begin", None))
        else:
            failure = Failure(FailureKind.EXCEPTION, "late") if what == 2 else None
            engine.on_end(live.trial, live.attempt, failure)
            self.note(seen.StalePassedOn(*where, "end", None))

    def _twice(self, engine: Engine) -> None:
        """A report comes twice."""
        live = self._next(engine)
        if self._can_report(engine, live):
            self._report(engine, live, {"loss": loss(live.config, live.step + 1)}, twice=True)

    def _bad_metric(self, engine: Engine) -> None:
        """A report has a value that no objective can be made of."""
        value = _NUMBERLESS[self.choices.below(len(_NUMBERLESS))]
        live = self._next(engine)
        if self._can_report(engine, live):
            self._report(engine, live, {"loss": value})

    def _odd_metrics(self, engine: Engine) -> None:
        """A report is without the objective, or full of other things."""
        other: dict[str, Any] = {"note": "y" * 10_000, "lost": None, "rate": float("nan")}
        with_loss = self.choices.below(3)
        live = self._next(engine)
        if self._can_report(engine, live):
            value = {"loss": loss(live.config, live.step + 1)} if with_loss == 2 else {}
            self._report(engine, live, {**other, **value})

    def _can_report(self, engine: Engine, live: _Live) -> bool:
        left = live.step < self.setup.steps_of(live.trial)
        return live.begun and left and engine.is_current(live.trial, live.attempt)

    def _worker_dies(self, engine: Engine) -> None:
        """A worker dies, whether it has begun or not."""
        self._fail(engine, FailureKind.WORKER_DIED, "its worker process died")

    def _machine_lost(self, engine: Engine) -> None:
        """The machine of an attempt goes away."""
        self._fail(engine, FailureKind.NODE_LOST, "its machine went away")

    def _raises(self, engine: Engine) -> None:
        """An attempt raises an exception."""
        word = _FAILURE_WORDS[self.choices.below(len(_FAILURE_WORDS))]
        self._fail(engine, FailureKind.EXCEPTION, f"ValueError: {word}")

    def _fail(self, engine: Engine, kind: FailureKind, message: str) -> None:
        live = self._next(engine, self.choices.below(5))
        by_itself = kind is FailureKind.EXCEPTION
        if engine.is_current(live.trial, live.attempt) and (live.begun or not by_itself):
            self._end(engine, live, Failure(kind, message))

    def _stop(self, engine: Engine) -> None:
        """Somebody stops the run gracefully."""
        self.note(seen.StopAsked(self.session, "interrupted"))
        engine.stop("interrupted", "interrupted by SIGTERM")

    def _clock_jump(self, engine: Engine) -> None:
        """The wall clock is set."""
        by_s = CLOCK_JUMP_S if self.choices.below(2) else -CLOCK_JUMP_S
        self.note(seen.ClockJumped(by_s))
        if self._clock_jumps:
            self._wall_ahead_s += by_s

    def _kill(self, engine: Engine) -> None:
        """The driver is killed."""
        raise DriverDied

    def _kill_within(self, engine: Engine) -> None:
        """The driver is killed in the middle of what comes next."""
        self.journal.die_at(1 + self.choices.below(4), keep=bool(self.choices.below(2)))
        self._held = True

    def _silence(self, engine: Engine) -> None:
        """Nothing is heard of any trial for a while."""
        self._pass_time(engine, PAUSE_S)


_ACTIONS: tuple[Callable[[Schedule, Engine], None], ...] = (
    Schedule._go_on,
    Schedule._late,
    Schedule._kill,
    Schedule._worker_dies,
    Schedule._raises,
    Schedule._bad_metric,
    Schedule._together,
    Schedule._stale,
    Schedule._twice,
    Schedule._odd_metrics,
    Schedule._machine_lost,
    Schedule._stop,
    Schedule._clock_jump,
    Schedule._silence,
    Schedule._kill_within,
    Schedule._together,
    Schedule._kill_within,
    Schedule._late,
)
