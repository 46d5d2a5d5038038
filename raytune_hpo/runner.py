"""The engine on Ray Tune; only this module and ``worker`` import ``ray.tune``.

Each attempt of a trial is one Tune trial. Tune starts it on a worker, passes its results on and
ends it; everything else (what to start, what a result means, retries, pausing, what survives a
kill) is the engine's. Actors are reused from attempt to attempt.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.experiment import Experiment as TuneExperiment
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import SearchAlgorithm

from raytune_hpo import nodes
from raytune_hpo.attempt import STOP_GRACE_S, Assignment, Event, Job
from raytune_hpo.engine import Engine, Start
from raytune_hpo.errors import RaytuneHpoError
from raytune_hpo.ports import Ports
from raytune_hpo.trial import Failure, FailureKind
from raytune_hpo.worker import TuneTrial

HANG_SLACK_S = 8.0
"""A worker ends a trial that is past a limit itself; after this it is taken to hang."""
POLL_S = 0.01
"""Time between two looks while nothing runs and nothing can start yet."""
SAFE_WAIT_S = 0.1
SAFE_POLL_S = 0.002
"""So the driver waits, when it has nothing else to do, for a report to become safe."""
LOOK_S = 2.0
"""Time between two looks at the machines."""
KILL_SLACK_S = 5.0
"""A worker that is this much past what it should have ended by itself is killed."""

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # The journal is the record; Tune's own snapshots are never read.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


@dataclass
class _Live:
    """A Tune trial that has not ended, with the monotonic times the watch over it needs."""

    start: Start
    tune_trial: Trial
    began_s: float | None = None
    node_id: str | None = None
    heard_s: float = field(default_factory=time.monotonic)
    unwanted_s: float | None = None
    killed: bool = False
    asked: bool = False


class _Bridge:
    """Passes between Tune's callbacks and the engine."""

    def __init__(
        self, engine: Engine, job: Job, resources: Mapping[str, float], ports: Ports
    ) -> None:
        self.engine = engine
        self.job = job
        self.resources = tune.PlacementGroupFactory([dict(resources)])
        # The same for one bundle, but not equal: Tune reuses no actor across the two.
        self._last_resources = tune.PlacementGroupFactory([dict(resources)], strategy="SPREAD")
        self.ports = ports
        self.live: dict[str, _Live] = {}
        self.error: RaytuneHpoError | None = None
        self._unsafe: list[tuple[_Live, Callable[[], bool]]] = []
        self._looked_s: float | None = None
        self._announced: set[str] = set()

    def next_trial(self, experiment: TuneExperiment) -> Trial | None:
        """Return the next attempt as a Tune trial, or None while others run and none can start."""
        start = self._next_start()
        # Tune would sleep for a second before it asks again, and look at nothing else meanwhile.
        while start is None and not self.live and not self.engine.finished:
            time.sleep(POLL_S)
            self.tick()
            start = self._next_start()
        if start is None:
            return None
        assignment = Assignment(
            trial=start.trial,
            attempt=start.attempt,
            config=self.ports.nested(start.config) if self.job.is_function else start.config,
            checkpoint=start.checkpoint,
            env=self.ports.environment(start.trial),
        )
        trial = Trial(
            str(experiment.run_identifier),
            config={"assignment": asdict(assignment)},
            trial_id=f"{start.trial:05d}-{start.attempt}",
            storage=experiment.storage,
            placement_group_factory=self.resources,
        )
        self.live[trial.trial_id] = _Live(start, trial)
        return trial

    def _next_start(self) -> Start | None:
        self._look_at_machines()
        number = self.engine.next_number
        if number is not None and not self.ports.ready(number):
            return None
        return self.engine.next_start()

    def on_result(self, trial: Trial, result: dict[str, Any]) -> str:
        """Pass on what a worker has to tell; return Tune's word for what becomes of it."""
        live = self.live[trial.trial_id]
        live.heard_s = time.monotonic()
        if live.began_s is None:
            live.began_s, live.node_id = live.heard_s, result["node_id"]
            node, pid = result.get("hostname"), result.get("pid")
            self.engine.on_begin(live.start.trial, live.start.attempt, node, pid)
        stuck = False
        for data in result["events"]:
            event = _event(data)
            stuck = stuck or event.stuck
            self._pass_on(live.start, event)
        goes_on = stuck or self.engine.is_current(live.start.trial, live.start.attempt)
        # Tune's next call of the worker acknowledges what it has told.
        if result["events"] and self.ports.begin_sync is None:
            self.ports.sync()
        elif result["events"] and goes_on and self.ports.begin_sync is not None:
            self._unsafe.append((live, self.ports.begin_sync()))
            return str(TrialScheduler.NOOP)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def acknowledge(self, call_worker: Callable[[Trial], None]) -> None:
        """Have the workers called again whose reports are safe by now."""
        if self._unsafe and len(self._unsafe) == len(self.live):
            # No worker has anything to tell, and Tune would not wait.
            _wait_for(self._unsafe[0][1], SAFE_WAIT_S)
        waiting, self._unsafe = self._unsafe, []
        now = time.monotonic()
        for live, safe in waiting:
            if live.tune_trial.trial_id not in self.live:
                continue
            # Its silence is of our making.
            if live.began_s is not None:
                live.began_s += now - live.heard_s
            live.heard_s = now
            if safe():
                call_worker(live.tune_trial)
            else:
                self._unsafe.append((live, safe))

    def _pass_on(self, start: Start, event: Event) -> None:
        if event.metrics is None:
            self.engine.on_end(start.trial, start.attempt, event.failure)
        else:
            self.engine.on_report(start.trial, start.attempt, event.metrics, event.checkpoint)

    def on_error(self, trial: Trial) -> None:
        """Take note of a worker that died."""
        live = self.live.pop(trial.trial_id, None)
        if live is None:
            # It died on its way out, after its trial had ended.
            return
        if live.node_id is not None and nodes.is_lost(live.node_id):
            announced = live.node_id in self._announced
            kind = FailureKind.PREEMPTED if announced else FailureKind.NODE_LOST
            failure = Failure(kind, "the machine that it ran on is gone")
        else:
            failure = Failure(FailureKind.WORKER_DIED, _death(trial))
        self.engine.on_end(live.start.trial, live.start.attempt, failure)

    def on_over(self, trial: Trial) -> None:
        """Forget a Tune trial that has ended."""
        self.live.pop(trial.trial_id, None)

    def tick(self) -> None:
        """Look at the time, at requests from outside, and at workers that hang."""
        self.engine.tick()
        request = self.ports.stop_request()
        if request is not None and request.drain_s:
            self.engine.drain(request.reason, request.message, request.drain_s)
        elif request is not None:
            self.engine.stop(request.reason, request.message)
        self._look_at_machines()
        if self.ports.begin_sync is None:
            self.ports.sync()
        else:
            self.ports.begin_sync()
        now = time.monotonic()
        for live in self.live.values():
            self._watch(live, now)

    def _look_at_machines(self) -> None:
        """Now and then, see which machines there are, and have trials leave those that go."""
        now = time.monotonic()
        if self._looked_s is not None and now - self._looked_s < LOOK_S:
            return
        self._looked_s = now
        going = nodes.draining()
        self._announced |= going
        running = [live for live in self.live.values() if self._runs(live)]
        leaving = [live for live in running if live.node_id in going]
        self.engine.move(live.start.trial for live in leaving)
        for live in leaving:
            # The actor is to end with the trial.
            live.tune_trial.placement_group_factory = self._last_resources
        wanting = len(running) >= self.engine.parallel and self.engine.more_to_start
        busy = frozenset(live.node_id for live in running if live.node_id is not None)
        self.engine.parallel = self.ports.room(busy, wanting)

    def _runs(self, live: _Live) -> bool:
        return self.engine.is_current(live.start.trial, live.start.attempt)

    def _watch(self, live: _Live, now: float) -> None:
        start = live.start
        if self.engine.leaves(start.trial) and live.began_s is not None:
            _ask_for_checkpoint(live)
        if not self.engine.is_current(start.trial, start.attempt):
            live.unwanted_s = live.unwanted_s or now
            if now - live.unwanted_s > STOP_GRACE_S + KILL_SLACK_S:
                _kill(live)
            return
        late = self._late(live, now)
        if late is not None:
            self.engine.on_end(start.trial, start.attempt, late)
            _kill(live)

    def _late(self, live: _Live, now: float) -> Failure | None:
        """Return the failure of a worker that does not even see its own limits, or None."""
        limit = self.job.time_limit_s
        if live.began_s is None:
            return None
        if limit is not None and now - live.began_s > limit + HANG_SLACK_S:
            message = f"it ran longer than its time limit of {limit:g} s and hung"
            return Failure(FailureKind.TIME_LIMIT, message)
        limit = self.job.silent_limit_s
        if limit is not None and now - live.heard_s > limit + HANG_SLACK_S:
            return Failure(FailureKind.SILENT, f"its worker was not heard of for {limit:g} s")
        return None


def _wait_for(is_so: Callable[[], bool], timeout_s: float) -> None:
    """Return when something is so, or when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not is_so() and time.monotonic() < deadline:
        time.sleep(SAFE_POLL_S)


@contextlib.contextmanager
def _noting(bridge: _Bridge) -> Iterator[None]:
    """Keep an error of our own: Tune wraps what is raised in its callbacks."""
    try:
        yield
    except RaytuneHpoError as error:
        bridge.error = error
        raise


class _Search(SearchAlgorithm):  # type: ignore[misc]
    """Has Tune start what the engine wants."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge
        self._experiment: TuneExperiment | None = None

    def add_configurations(self, experiments: Any) -> None:
        self._experiment = experiments[0]
        self._bridge.ports.started()

    def next_trial(self) -> Trial | None:
        if self._experiment is None:
            return None
        with _noting(self._bridge):
            return self._bridge.next_trial(self._experiment)

    def is_finished(self) -> bool:
        return self._bridge.engine.finished

    def save_to_dir(self, dirpath: str, **kwargs: Any) -> None:
        """Nothing to save: the journal has it."""

    def has_checkpoint(self, dirpath: str) -> bool:
        return False


class _Schedule(TrialScheduler):  # type: ignore[misc]
    """Passes Tune's events on; its main loop is the engine's clock."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        pass

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        with _noting(self._bridge):
            return self._bridge.on_result(trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        with _noting(self._bridge):
            self._bridge.on_error(trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._bridge.on_over(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._bridge.on_over(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        with _noting(self._bridge):
            # Past the wrapper, which warns of all but a few names.
            controller = tune_controller._tune_controller
            self._bridge.acknowledge(controller._schedule_trial_train)
            self._bridge.tick()
        return None

    def debug_string(self) -> str:
        return "raytune-hpo"


def execute(engine: Engine, job: Job, resources: Mapping[str, float], ports: Ports) -> None:
    """Run the engine's trials on the Ray that this process is connected to, to the end.

    Args:
        engine: Decides what runs.
        job: What all attempts share.
        resources: Of one trial, by Ray's names: CPU, GPU, memory (bytes) and custom ones.
        ports: What is needed from outside.
    """
    if engine.finished:
        return
    bridge = _Bridge(engine, job, resources, ports)
    scratch = job.run_dir / ".tune"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _run_tune(bridge, job, scratch)
    except Exception:
        if bridge.error is not None:
            raise bridge.error from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _surviving_memory_hogs() -> Iterator[None]:
    """Have Tune take a worker that was killed for its memory as one that died.

    Tune 2.60 knows two kinds of errors of a worker and ends the whole run at any other, of which
    this is one.
    """
    original = RayActorManager._actor_task_failed

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        original(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = original


def _run_tune(bridge: _Bridge, job: Job, scratch: Path) -> None:
    with (
        _surviving_memory_hogs(),
        _environment({"TUNE_MAX_PENDING_TRIALS_PG": str(min(bridge.engine.parallel, 16))}),
    ):
        tune.run(
            tune.with_parameters(TuneTrial, job=job),
            name="run",
            storage_path=str(scratch),
            search_alg=_Search(bridge),
            scheduler=_Schedule(bridge),
            reuse_actors=True,
            raise_on_failed_trial=False,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        )


@contextlib.contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    """Set Tune's switches for this block; what the user has set wins."""
    added = {k: v for k, v in {**_ENVIRONMENT, **more}.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _event(data: dict[str, Any]) -> Event:
    failure = data["failure"]
    if failure is not None:
        failure = Failure(**{**failure, "kind": FailureKind(failure["kind"])})
    return Event(**{**data, "failure": failure})


def _kill(live: _Live) -> None:
    actor = live.tune_trial.temporary_state.ray_actor
    if actor is not None and not live.killed:
        live.killed = True
        ray.kill(actor)


def _ask_for_checkpoint(live: _Live) -> None:
    """Tell the worker that its trial is to save a checkpoint; the answer is a report."""
    actor = live.tune_trial.temporary_state.ray_actor
    if actor is not None and not live.asked:
        live.asked = True
        actor.want_checkpoint.remote()


def _death(trial: Trial) -> str:
    """Return in one sentence why Ray says that a worker died."""
    path = Path(trial.error_file) if trial.error_file else None
    text = path.read_text() if path is not None and path.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    why = next((line for line in lines if "memory" in line.lower()), None)
    if why is None:
        why = next((line for line in lines if "died" in line.lower()), "no reason was given")
    return f"its worker process died: {why}"
