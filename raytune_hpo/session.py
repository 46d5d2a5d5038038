"""One session of a run on this machine: directory, lock, journal, tracker, Ray, engine."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raytune_hpo import environment, failpoints, journal
from raytune_hpo.attempt import Function, Job
from raytune_hpo.cluster import here
from raytune_hpo.collect import MetricOptions
from raytune_hpo.engine import Engine
from raytune_hpo.errors import InfrastructureError, Problem, RunError, RunExistsError, SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.leaving import Limit
from raytune_hpo.on_ray import OnRay
from raytune_hpo.plugins import auto_searcher, make_scheduler, make_searcher
from raytune_hpo.ports import Executor, Ports, StopRequest
from raytune_hpo.redirect import output_to
from raytune_hpo.runs import RESULTS_DIR, STOP_FILE
from raytune_hpo.signals import SOON, StopSignals
from raytune_hpo.spec import redacted
from raytune_hpo.state import VERSION, RunState
from raytune_hpo.storage import homes, place
from raytune_hpo.storage.homes import Home, Log
from raytune_hpo.storage.journal import StoreJournal
from raytune_hpo.suggestions import InBackground
from raytune_hpo.tracking.process import END_WAIT_ENV, END_WAIT_S, TrackerProcess
from raytune_hpo.watchdog import Watchdog

DRIVER_LOG = "driver.log"
RUNS_AHEAD = 32
"""MLflow runs made for trials to come at the least, so that short trials need not wait for them."""
INTERRUPTED_TRACKER_S = 3.0
"""After a signal, MLflow gets so long to catch up; the rest comes with the next session."""

_MAY_CHANGE = frozenset(
    {
        "description",
        "env",
        "max_failed",
        "mlflow",
        "parallel",
        "resources",
        "retries",
        "run",
        "setup",
        "silent_limit",
        "stop_when",
        "targets",
        "tensorboard",
        "time_limit",
        "trial_time_limit",
        "trials",
    }
)
"""Fields of the experiment that may differ when a run goes on: they do not change what it asks."""

Listener = Callable[[Sequence[Record]], None]


def run_dir_of(experiment: Experiment, folder: Path) -> Path:
    """Return the run directory, on this machine, of an experiment whose file lies in ``folder``."""
    return home_of(experiment, folder).run_dir


def home_of(experiment: Experiment, folder: Path) -> Home:
    """Return where an experiment whose file lies in ``folder`` has its run."""
    storage = experiment.storage or RESULTS_DIR
    if place.is_url(storage):
        return homes.InStore(place.join(str(storage), experiment.name), folder)
    return homes.InFolder(folder / storage / experiment.name)


@dataclass(frozen=True)
class Surroundings:
    """What a session has around it.

    Attributes:
        on_records: Called with the journal's records, those of earlier sessions first.
        on_note: Called with a sentence for the person at the screen.
        executor: Where the trials run; None for Ray.
        exits_process: Whether this process is the driver's own, so that it may be ended when a
            library will not let go of it.
    """

    on_records: Listener = lambda records: None
    on_note: Callable[[str], None] = lambda text: None
    executor: Executor | None = None
    exits_process: bool = False


@dataclass(frozen=True)
class Limits:
    """What a session changes.

    Attributes:
        trials: New trial budget, or None to keep the last one.
        parallel: New number of trials at once, or None.
        time_limit_s: New time limit of the session, or None.
    """

    trials: int | None = None
    parallel: int | None = None
    time_limit_s: float | None = None


def run_experiment(
    experiment: Experiment,
    *,
    folder: Path | None = None,
    source: str | None = None,
    resume: bool = False,
    surroundings: Surroundings | None = None,
) -> Path:
    """Run an experiment on this machine to its end, and return its run directory.

    Args:
        experiment: What to run.
        folder: Relative paths of the experiment start here; default: the working directory.
        source: Text of the experiment file, kept with the run.
        resume: Go on if there is a journal already, instead of refusing.
        surroundings: What the session has around it.

    Raises:
        RunExistsError: There is a journal already and ``resume`` was not asked for.
        RunLockedError: Another driver holds the run.
        JournalError: The journal is damaged, or cannot be written.
        InfrastructureError: Ray did not start, or no node can meet what a trial asks for.
    """
    folder = (folder or Path.cwd()).absolute()
    home, around = home_of(experiment, folder), surroundings or Surroundings()
    if home.exists():
        home.check_trust()
    with home.held(around.on_note) as log:
        known = RunState.replay(log.records_at_open)
        if not known.sessions:
            log.start_over()
            records = [_write_header(log, experiment, folder, source)]
        elif not resume:
            raise RunExistsError(
                f"{place.shown(home.run_dir)}: there is a run already. Go on with it: raytune-hpo "
                f"resume {_shown(home.run_dir)}; or start another one: --name OTHER"
            )
        else:
            _check_same(experiment, known.experiment)
            records = log.records_at_open
        limits = Limits(experiment.trials, experiment.parallel)
        _Session(home, log, records, experiment, limits, around).run()
    return home.run_dir


def resume_run(
    run_dir: Path | str,
    *,
    limits: Limits | None = None,
    function: Function | None = None,
    folder: Path | None = None,
    trusted: bool = False,
    surroundings: Surroundings | None = None,
) -> Path:
    """Go on with a run on this machine to its end, and return its run directory.

    Args:
        run_dir: Folder with a journal, or the URL of a run in a store.
        limits: What is to change.
        function: The trial function, for a run that was started with a function object.
        folder: Where the experiment lies here, for a run in a store whose machine was another one.
        trusted: Go on even if others can write to the run directory: its journal says what is
            executed.
        surroundings: What the session has around it.

    Raises:
        RunError: There is no run, it is held by another driver, its function is missing, or it is
            not only this user's.
        JournalError: The journal is damaged, or cannot be written.
        InfrastructureError: Ray did not start, or no node can meet what a trial asks for.
    """
    home, around = homes.of(run_dir, folder), surroundings or Surroundings()
    if not home.exists():
        raise RunError(f"{home.url or home.run_dir}: there is no run here (no journal)")
    if not trusted:
        home.check_trust()
    with home.held(around.on_note) as log:
        if not log.records_at_open:
            raise RunError(f"{home.url or home.run_dir}: the run was given up before it began")
        experiment = RunState.replay(log.records_at_open).experiment
        if function is not None:
            experiment = experiment.with_function(function)
        records, limits = log.records_at_open, limits or Limits()
        _Session(home, log, records, experiment, limits, around).run()
    return home.run_dir


def _check_same(wanted: Experiment, known: Experiment) -> None:
    """Refuse to go on with a run under an experiment that asks something else.

    Raises:
        SpecError: Names the fields that differ and must not.
    """
    now, before = wanted.to_json(), known.to_json()
    problems = [
        Problem(name, "is not what this run was started with; give the new experiment its own name")
        for name in dict.fromkeys([*before, *now])
        if name not in _MAY_CHANGE and now.get(name) != before.get(name)
    ]
    if problems:
        raise SpecError(problems)


def _write_header(log: Log, experiment: Experiment, folder: Path, source: str | None) -> Record:
    algorithm, reason = experiment.search.algorithm, "asked for"
    if algorithm == "auto":
        algorithm, reason = auto_searcher(
            experiment.search_space,
            experiment.objectives,
            experiment.trials,
            experiment.scheduler.algorithm,
        )
    seed = experiment.search.seed
    record = log.append(
        "experiment",
        version=VERSION,
        id=uuid.uuid4().hex,
        name=experiment.name,
        spec=experiment.to_json(),
        seed=secrets.randbelow(2**31) if seed is None else seed,
        algorithm=algorithm,
        algorithm_reason=reason,
        scheduler=experiment.scheduler.algorithm,
        source=None if source is None else redacted(source),
        folder=str(folder),
        cwd=str(Path.cwd()),
        environment=environment.describe(folder),
    )
    failpoints.reach("session.header")
    if source is not None:
        (log.run_dir / "experiment.yaml").write_text(redacted(source))
    return record


@dataclass
class _Session:
    """One start of a driver over a run directory that it holds the lock of."""

    home: Home
    log: Log
    records: list[Record]
    experiment: Experiment
    limits: Limits
    around: Surroundings

    @property
    def run_dir(self) -> Path:
        """Folder of the run on this machine."""
        return self.home.run_dir

    def run(self) -> None:
        """Run from the end of the journal until the engine says that it is over."""
        # What can be wrong with it comes out before Ray is started.
        job = _job(self.home, self.experiment, self.records[0])
        executor = self.around.executor or OnRay(here.connection(self.experiment))
        self.signals = StopSignals()
        self.signals.install()
        (self.run_dir / STOP_FILE).unlink(missing_ok=True)
        self.tracker = _start_tracker(self.run_dir, self.experiment)
        advice = f"go on with: raytune-hpo resume {_shown(self.run_dir)}"
        self.watchdog = Watchdog(
            self.signals,
            executor.lost,
            self._end_tracker,
            lambda: _drain_s(executor),
            advice,
            exits_process=self.around.exits_process,
        )
        try:
            with self._quiet_ray():
                self._open(executor)
                self._drive(executor, job)
        except KeyboardInterrupt:
            print(f"interrupted at once. Nothing is lost; {advice}", file=sys.stderr)
            raise
        finally:
            executor.close()
            warning = None if self.tracker is None else self.tracker.close(self._tracker_wait_s)
            self.watchdog.close()
            self.signals.restore()
            if warning is not None:
                print(warning, file=sys.stderr)

    @contextlib.contextmanager
    def _quiet_ray(self) -> Iterator[None]:
        """Send what Ray writes past all logging to the driver's log: C++ code, and a thread."""
        path = self.run_dir / DRIVER_LOG
        with contextlib.ExitStack() as stack:
            stack.enter_context(output_to(path, 2))
            if self.around.exits_process:
                # The screen keeps the standard output that it was made with.
                log = stack.enter_context(path.open("a", buffering=1))
                stack.enter_context(contextlib.redirect_stdout(log))
            yield

    def _open(self, executor: Executor) -> None:
        """Get the executor ready; nothing runs yet, so a signal ends it at once."""
        self.signals.at_once = True
        try:
            executor.open(self.run_dir / DRIVER_LOG)
        except SystemExit:
            # From Ray's own handler of SIGTERM, which it puts in the place of ours.
            raise KeyboardInterrupt from None
        self.signals.install()
        self.signals.at_once = False

    def _drive(self, executor: Executor, job: Job) -> None:
        resources = _resources(self.experiment)
        fits = _most_at_once(executor, resources)
        state = RunState.replay(self.records)
        self.records.append(self._begin(state, resources, fits))
        self.around.on_records(self.records)
        store = self.log if isinstance(self.log, StoreJournal) else None
        ports = Ports(
            environment=self._tracking_environment,
            ready=lambda trial: (
                (store is None or store.keeps_up)
                and (self.tracker is None or self.tracker.may_start(trial))
            ),
            nested=self.experiment.search_space.nested,
            stop_request=_Look(self, executor),
            room=self._room(executor, resources),
            started=self.signals.install,
            sync=self.log.sync,
            begin_sync=None if store is None else store.begin_sync,
        )
        with contextlib.closing(self._engine(state, self.records, executor)) as engine:
            executor.execute(engine, job, resources, ports)
        self.log.sync()

    def _begin(self, state: RunState, resources: dict[str, float], fits: int) -> Record:
        wanted = self.limits.parallel or self.experiment.parallel or fits
        record = self.log.append(
            "session",
            session=len(state.sessions) + 1,
            host=socket.gethostname(),
            pid=os.getpid(),
            run_dir=self.home.url or str(self.run_dir),
            trials=self.limits.trials or state.budget or self.experiment.trials,
            parallel=min(wanted, fits),
            resources=resources,
        )
        failpoints.reach("session.begun")
        return record

    @property
    def _tracker_wait_s(self) -> float:
        interrupted = self.signals.received is not None or self.watchdog.reason is not None
        if interrupted:
            return INTERRUPTED_TRACKER_S
        return float(os.environ.get(END_WAIT_ENV) or END_WAIT_S)

    def _end_tracker(self) -> None:
        if self.tracker is not None:
            self.tracker.close(0.0)

    def _room(self, executor: Executor, resources: Mapping[str, float]) -> Callable[..., int]:
        """Return what says how many trials may run at once, as machines come and go."""
        most: int = self.records[-1]["parallel"]

        def room(busy: frozenset[str], wanting: bool) -> int:
            executor.note(busy, wanting=wanting)
            return min(most, sum(_fits(node, resources) for node in executor.nodes()))

        return room

    def _engine(self, state: RunState, records: list[Record], executor: Executor) -> Engine:
        space, objective = self.experiment.search_space, self.experiment.objectives
        settings = self.experiment.search.settings
        return Engine(
            self.experiment,
            records,
            make_searcher(state.algorithm, space, objective, state.seed, settings),
            make_scheduler(
                state.scheduler,
                space,
                objective,
                state.seed,
                self.experiment.scheduler.settings,
            ),
            self.log,
            _Monotonic(),
            suggestions=InBackground,
            listener=lambda record: self.around.on_records([record]),
            time_limit_s=self.limits.time_limit_s,
            limit=_limit(executor),
            has_checkpoint=self.home.has_checkpoint,
            copy_checkpoint=self.home.copy_checkpoint,
        )

    def _tracking_environment(self, trial: int) -> dict[str, str]:
        return {} if self.tracker is None else self.tracker.environment(trial)


class _Monotonic:
    def monotonic(self) -> float:
        return time.monotonic()


class _Look:
    """Looks for signals and losses at every call, and twice a second at files and the tracker."""

    def __init__(self, session: _Session, executor: Executor) -> None:
        self._session = session
        self._executor = executor
        self._file = session.run_dir / STOP_FILE
        self._next_look_s = 0.0
        self._said: str | None = None

    def __call__(self) -> StopRequest | None:
        received = self._session.signals.received
        if received is not None:
            drain_s = _drain_s(self._executor) if received == SOON else 0.0
            wait = ", when trials have saved a checkpoint" if drain_s else ""
            self._say(f"{received}: stopping{wait}; resume will go on with what runs now")
            return StopRequest("interrupted", f"interrupted by {received}", drain_s)
        if self._session.watchdog.reason is not None:
            return StopRequest("infrastructure", self._session.watchdog.reason)
        now = time.monotonic()
        if now < self._next_look_s:
            return None
        self._next_look_s = now + 0.5
        self._note_trouble()
        if not self._file.exists():
            return None
        return StopRequest("stopped", "stopped by raytune-hpo stop")

    def _note_trouble(self) -> None:
        """Say when the tracker's store goes away, and when it is back."""
        tracker = self._session.tracker
        trouble = None if tracker is None else tracker.trouble()
        if trouble is not None or self._said is not None:
            self._say(trouble or "MLflow is back; what was kept is being sent")

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._session.around.on_note(text)


def _job(home: Home, experiment: Experiment, header: Record) -> Job:
    folder = Path(header["folder"])
    workdir: Path | None = folder / (experiment.workdir or "")
    if experiment.workdir == "trial":
        workdir = None
    run = experiment.run
    if experiment.is_function and experiment.function is None and "<" in str(run):
        raise RunError(
            f"the trials of this run are the Python object {run}, which a journal cannot hold: "
            "go on from the script that started it, with raytune_hpo.run(..., resume=True)"
        )
    goals = experiment.objectives.goals
    single = goals[0].name if len(goals) == 1 and goals[0].expression.is_name else None
    return Job(
        run_dir=home.run_dir,
        run=run if isinstance(run, str) else tuple(run),
        function=experiment.function,
        single_metric=single,
        folder=folder,
        workdir=workdir,
        env=experiment.resolved_env(),
        setup=experiment.setup,
        time_limit_s=experiment.trial_time_limit_s,
        silent_limit_s=experiment.silent_limit_s,
        keep_checkpoints=experiment.checkpoint.keep,
        parameters=tuple(experiment.search_space.parameters),
        metrics=MetricOptions(
            source=experiment.metrics.source,
            path=experiment.metrics.path,
            patterns=experiment.metrics.patterns,
        ),
        chaos=home.run_dir / "chaos" if os.environ.get(journal.CHAOS_ENV) else None,
        url=home.url,
        run_id=header["id"],
    )


def _resources(experiment: Experiment) -> dict[str, float]:
    asked = experiment.resources
    resources: dict[str, float] = {"CPU": float(asked.cpu)}
    if asked.gpu:
        resources["GPU"] = float(asked.gpu)
    if asked.memory:
        resources["memory"] = float(asked.memory)
    return {**resources, **{name: float(amount) for name, amount in asked.custom.items()}}


def _fits(node: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """Return how many trials fit on a machine at once."""
    wanted = {name: amount for name, amount in resources.items() if amount > 0}
    if not wanted:
        return int(node.get("CPU", 1))
    return int(min(node.get(name, 0.0) / amount + 1e-9 for name, amount in wanted.items()))


def _most_at_once(executor: Executor, resources: Mapping[str, float]) -> int:
    """Return how many trials can run at once, on the machines there are or may be.

    Raises:
        InfrastructureError: No machine has what one trial asks for.
    """
    nodes, room = executor.nodes(), executor.room()
    fits = sum(_fits(node, resources) for node in nodes)
    if room is not None:
        nodes = [*nodes, dict(room.machine)]
        fits = max(fits, room.machines * _fits(room.machine, resources))
    if not fits:
        raise InfrastructureError(_no_room(resources, nodes))
    return fits


def _limit(executor: Executor) -> Limit | None:
    """Return when the machines are taken away, if that is known."""
    if executor.deadline_t is None:
        return None
    return Limit(executor.deadline_t - time.time() + time.monotonic(), executor.margin_s)


def _drain_s(executor: Executor) -> float:
    """Return how long trials may go on, once it was said that their machines are taken away."""
    now = time.monotonic()
    announced = Limit(now + executor.margin_s, executor.margin_s)
    known = _limit(executor) or announced
    return max(0.0, min(known.drain_until_s, announced.drain_until_s) - now)


def _no_room(resources: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
    largest = {name: max(node.get(name, 0.0) for node in nodes) for name in resources}
    asked = ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
    there = ", ".join(f"{amount:g} {name}" for name, amount in largest.items())
    return (
        f"each trial asks for {asked}; no machine here has that (the most is {there}). "
        "Ask for less under 'resources:', or run where there is more"
    )


def _start_tracker(run_dir: Path, experiment: Experiment) -> TrackerProcess | None:
    mlflow = experiment.mlflow is not False
    if not mlflow and not experiment.tensorboard:
        return None
    parallel = experiment.parallel or os.cpu_count() or 1
    return TrackerProcess(
        run_dir,
        ahead=max(2 * parallel + 2, RUNS_AHEAD),
        tensorboard=experiment.tensorboard,
        mlflow=mlflow,
    )


def _shown(run_dir: Path) -> str:
    """Return a run as a person would type it."""
    default = Path.cwd() / RESULTS_DIR
    return run_dir.name if run_dir.parent == default else place.shown(run_dir)
