"""One session of a run on this machine: directory, lock, journal, tracker, Ray, engine."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raytune_hpo import environment, journal, lock
from raytune_hpo.attempt import Function, Job
from raytune_hpo.cluster.local import LocalRay
from raytune_hpo.collect import MetricOptions
from raytune_hpo.engine import Engine
from raytune_hpo.errors import InfrastructureError, RunError, RunExistsError
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Journal, Record
from raytune_hpo.plugins import auto_searcher, make_scheduler, make_searcher
from raytune_hpo.spec import redacted
from raytune_hpo.signals import StopSignals
from raytune_hpo.state import VERSION, RunState

TrackerProcess = Any

DEFAULT_STORAGE = "raytune-results"
STOP_FILE = "stop"
DRIVER_LOG = "driver.log"

Listener = Callable[[Sequence[Record]], None]


def run_dir_of(experiment: Experiment, folder: Path) -> Path:
    """Return the run directory of an experiment whose file lies in ``folder``."""
    return (folder / (experiment.storage or DEFAULT_STORAGE) / experiment.name).absolute()


def run_experiment(
    experiment: Experiment,
    *,
    folder: Path | None = None,
    source: str | None = None,
    resume: bool = False,
    on_records: Listener = lambda records: None,
) -> Path:
    """Run an experiment on this machine to its end, and return its run directory.

    Args:
        experiment: What to run.
        folder: Relative paths of the experiment start here; default: the working directory.
        source: Text of the experiment file, kept with the run.
        resume: Go on if there is a journal already, instead of refusing.
        on_records: Called with the journal's records, those of earlier sessions first.

    Raises:
        RunExistsError: There is a journal already and ``resume`` was not asked for.
        RunLockedError: Another driver holds the run.
        InfrastructureError: Ray did not start, or no node can meet what a trial asks for.
    """
    folder = (folder or Path.cwd()).absolute()
    run_dir = run_dir_of(experiment, folder)
    run_dir.mkdir(parents=True, exist_ok=True)
    with _locked(run_dir):
        log = Journal(run_dir / journal.FILE_NAME)
        try:
            if log.records_at_open and not resume:
                raise RunExistsError(
                    f"{run_dir}: there is a run already. Go on with it: raytune-hpo resume "
                    f"{_shown(run_dir)}; or start another one: --name OTHER"
                )
            if not log.records_at_open:
                _write_header(log, experiment, folder, source)
            _session(run_dir, log, experiment, Limits(), on_records)
        finally:
            log.close()
    return run_dir


class Limits:
    """What a resumed session changes.

    Args:
        trials: New trial budget, or None to keep the last one.
        parallel: New number of trials at once, or None.
        time_limit_s: New time limit of the session, or None.
    """

    def __init__(
        self,
        trials: int | None = None,
        parallel: int | None = None,
        time_limit_s: float | None = None,
    ) -> None:
        self.trials = trials
        self.parallel = parallel
        self.time_limit_s = time_limit_s


def resume_run(
    run_dir: Path,
    *,
    limits: Limits | None = None,
    function: Function | None = None,
    on_records: Listener = lambda records: None,
) -> Path:
    """Go on with a run on this machine to its end, and return its run directory.

    Args:
        run_dir: Folder with a journal.
        limits: What is to change.
        function: The trial function, for a run that was started with a function object.
        on_records: Called with the journal's records, those of earlier sessions first.

    Raises:
        RunError: There is no run, it is held by another driver, or its function is missing.
        InfrastructureError: Ray did not start, or no node can meet what a trial asks for.
    """
    run_dir = run_dir.absolute()
    if not (run_dir / journal.FILE_NAME).exists():
        raise RunError(f"{run_dir}: there is no run here (no {journal.FILE_NAME})")
    with _locked(run_dir):
        log = Journal(run_dir / journal.FILE_NAME)
        try:
            experiment = RunState.replay(log.records_at_open).experiment
            if function is not None:
                experiment = experiment.with_function(function)
            _session(run_dir, log, experiment, limits or Limits(), on_records)
        finally:
            log.close()
    return run_dir


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    held = lock.RunLock(run_dir)
    try:
        yield
    finally:
        held.release()


def _write_header(log: Journal, experiment: Experiment, folder: Path, source: str | None) -> None:
    algorithm, reason = experiment.search.algorithm, "asked for"
    if algorithm == "auto":
        algorithm, reason = auto_searcher(
            experiment.search_space, experiment.objectives, experiment.trials
        )
    seed = experiment.search.seed
    log.append(
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
        environment=environment.describe(folder),
    )
    if source is not None:
        (log.path.parent / "experiment.yaml").write_text(redacted(source))


def _session(
    run_dir: Path, log: Journal, experiment: Experiment, limits: Limits, on_records: Listener
) -> None:
    """Run from the end of the journal until the engine says that it is over."""
    records = [*log.records_at_open]
    if not records:
        records = journal.read(log.path)
    state = RunState.replay(records)
    signals = StopSignals()
    signals.install()
    (run_dir / STOP_FILE).unlink(missing_ok=True)
    connection = LocalRay()
    tracker = _start_tracker(run_dir, experiment, state)
    try:
        with _quiet(run_dir / DRIVER_LOG):
            connection.connect(run_dir / DRIVER_LOG)
            _drive(run_dir, log, experiment, limits, records, signals, tracker, on_records)
    finally:
        connection.close()
        signals.restore()
        if tracker is not None:
            tracker.close()


def _drive(
    run_dir: Path,
    log: Journal,
    experiment: Experiment,
    limits: Limits,
    records: list[Record],
    signals: StopSignals,
    tracker: TrackerProcess | None,
    on_records: Listener,
) -> None:
    from raytune_hpo import runner

    state = RunState.replay(records)
    resources = _resources(experiment)
    fits = runner.node_fits(resources)
    if not fits:
        raise InfrastructureError(_no_room(resources))
    wanted = limits.parallel or experiment.parallel or fits
    started = log.append(
        "session",
        session=len(state.sessions) + 1,
        host=socket.gethostname(),
        pid=os.getpid(),
        trials=limits.trials or state.budget or experiment.trials,
        parallel=min(wanted, fits),
        resources=resources,
    )
    records.append(started)
    on_records(records)
    engine = Engine(
        experiment,
        records,
        make_searcher(
            state.algorithm,
            experiment.search_space,
            experiment.objectives,
            state.seed,
            experiment.search.settings,
        ),
        make_scheduler(state.scheduler, experiment.objectives, experiment.scheduler.settings),
        log,
        _Monotonic(),
        listener=lambda record: on_records([record]),
        time_limit_s=limits.time_limit_s or experiment.time_limit_s,
    )
    ports = runner.Ports(
        environment=lambda trial: _tracking_environment(tracker, trial),
        ready=lambda trial: tracker is None or tracker.may_start(trial),
        nested=experiment.search_space.nested,
        stop_request=_StopRequests(run_dir, signals),
        started=signals.install,
    )
    runner.execute(engine, _job(run_dir, experiment, state), resources, ports)


class _Monotonic:
    def monotonic(self) -> float:
        return time.monotonic()


class _StopRequests:
    """Looks for a signal at every call, and for a request file twice a second."""

    def __init__(self, run_dir: Path, signals: StopSignals) -> None:
        self._file = run_dir / STOP_FILE
        self._signals = signals
        self._next_look_s = 0.0

    def __call__(self) -> tuple[str, str] | None:
        if self._signals.received is not None:
            return "interrupted", f"interrupted by {self._signals.received}"
        now = time.monotonic()
        if now < self._next_look_s:
            return None
        self._next_look_s = now + 0.5
        return ("stopped", "stopped by raytune-hpo stop") if self._file.exists() else None


def _job(run_dir: Path, experiment: Experiment, state: RunState) -> Job:
    folder = Path(state.header["folder"])
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
        run_dir=run_dir,
        run=run if isinstance(run, str) else tuple(run),
        function=experiment.function,
        single_metric=single,
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
    )


def _resources(experiment: Experiment) -> dict[str, float]:
    asked = experiment.resources
    resources: dict[str, float] = {"CPU": float(asked.cpu)}
    if asked.gpu:
        resources["GPU"] = float(asked.gpu)
    if asked.memory:
        resources["memory"] = float(asked.memory)
    return {**resources, **{name: float(amount) for name, amount in asked.custom.items()}}


def _no_room(resources: dict[str, float]) -> str:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = {name: max(node.get(name, 0.0) for node in nodes) for name in resources}
    asked = ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
    there = ", ".join(f"{amount:g} {name}" for name, amount in largest.items())
    return (
        f"each trial asks for {asked}; no machine here has that (the most is {there}). "
        "Ask for less under 'resources:', or run where there is more"
    )


def _start_tracker(run_dir: Path, experiment: Experiment, state: RunState) -> TrackerProcess | None:
    if experiment.mlflow is False:
        return None
    raise SystemExit


def _tracking_environment(tracker: TrackerProcess | None, trial: int) -> dict[str, str]:
    return {} if tracker is None else tracker.environment(trial)


@contextlib.contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Send what C++ code writes to stderr to a file while Ray is at work."""
    sys.stderr.flush()
    saved = os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


def _shown(run_dir: Path) -> str:
    """Return a run directory as a person would type it."""
    default = Path.cwd() / DEFAULT_STORAGE
    return run_dir.name if run_dir.parent == default else str(run_dir)
