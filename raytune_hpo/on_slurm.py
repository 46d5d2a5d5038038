"""Runs on Slurm, from the login node: submit, and submit again to go on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from raytune_hpo import journal
from raytune_hpo.errors import Problem, RunError, RunExistsError, SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.running import refuse_secrets
from raytune_hpo.session import Limits, run_dir_of
from raytune_hpo.slurm import follow as following
from raytune_hpo.slurm import launcher, script, site
from raytune_hpo.slurm.script import Place
from raytune_hpo.slurm.state import SCRIPT_FILE, STATE_FILE
from raytune_hpo.state import RunState
from raytune_hpo.storage import place as storage_place

ASK_S = 30.0
"""Slurm is asked about a run that is followed at most so often."""
_NO_STORE = "jobs on Slurm need a folder that all nodes see: --storage /shared/runs"
_POLL_S = 0.5
_CHUNK = 64 * 1024


def ran_there(run_dir: Path) -> bool:
    """Return whether a run was last carried by a job of Slurm, seen from outside of one."""
    files = (run_dir / "slurm" / STATE_FILE, run_dir / "slurm" / launcher.SUBMITTED_FILE)
    return "SLURM_JOB_ID" not in os.environ and any(file.exists() for file in files)


def place_of(file: Path, experiment: Experiment, overrides: Sequence[str]) -> Place:
    """Return where the experiment in a file lies and will run.

    Args:
        file: The experiment file.
        experiment: What is in it, with the overrides.
        overrides: Values in place of those in the file, such as ``search.seed=3``.

    Raises:
        SpecError: An override holds a secret, which would stand in the batch script, or the runs
            are kept in an object store.
    """
    refuse_secrets(overrides, "a batch script")
    if storage_place.is_url(experiment.storage or ""):
        raise SpecError([Problem("storage", _NO_STORE)])
    file = file.absolute()
    run_dir = run_dir_of(experiment, file.parent)
    arguments = ["run", str(file), "--resume", "--storage", str(run_dir.parent)]
    arguments += [word for text in overrides for word in ("--set", text)]
    return Place(file, run_dir, Path(sys.executable), file.parent, tuple(arguments))


def rendered(experiment: Experiment, place: Place) -> str:
    """Return the batch script that ``submit`` would submit."""
    return script.render(experiment, site.target_of(experiment), place)


def submit(experiment: Experiment, place: Place, *, resume: bool) -> Iterator[str]:
    """Submit an experiment, and yield what there is to say about it.

    Raises:
        RunExistsError: There is a run of its name already, and ``resume`` was not asked for.
        InfrastructureError: Slurm does not take it.
    """
    if journal.exists(place.run_dir) and not resume:
        raise RunExistsError(
            f"{place.run_dir}: there is a run already. Go on with it: raytune-hpo resume "
            f"{place.run_dir.name}; or start another one: --name OTHER"
        )
    yield from _submitted(experiment, place)


def submit_again(run_dir: Path, limits: Limits, *, trusted: bool) -> Iterator[str]:
    """Submit a job that goes on with a run, and yield what there is to say about it.

    Raises:
        RunError: It has not begun yet.
        InfrastructureError: Slurm does not take it.
    """
    if storage_place.url_of(run_dir) is not None:
        raise RunError(f"{storage_place.shown(run_dir)}: {_NO_STORE}")
    run_dir = run_dir.absolute()
    records = journal.read(run_dir) if journal.exists(run_dir) else []
    if not records and not (run_dir / "slurm" / SCRIPT_FILE).exists():
        raise RunError(f"{run_dir}: the run has not begun; submit it: run FILE --on slurm")
    if not records:
        yield from _told(run_dir, launcher.submit_script(run_dir / "slurm"))
        return
    state = RunState.replay(records)
    words = ["resume", str(run_dir), "--on", "local"]
    given = {
        "--trials": limits.trials,
        "--parallel": limits.parallel,
        "--time-limit": limits.time_limit_s,
    }
    words += [word for n, v in given.items() if v is not None for word in (n, f"{v:g}")]
    words += ["--trust"] if trusted else []
    folder = Path(state.header["folder"])
    file = run_dir / "experiment.yaml"
    place = Place(file, run_dir, Path(sys.executable), folder, tuple(words))
    yield from _submitted(state.experiment, place)


def job_output(run_dir: Path, *, follow: bool) -> Iterator[bytes]:
    """Yield what the jobs of a run wrote, one after the other.

    Args:
        run_dir: Directory of the run.
        follow: Go on until none of its jobs waits or runs any more; Slurm is asked now and then.

    Raises:
        RunError: It has no job, or none that wrote anything.
    """
    if following.known(run_dir) is None:
        raise RunError(f"{run_dir}: this run was not on Slurm; its driver wrote to your screen")
    there = _asked_now_and_then(run_dir)
    done: dict[Path, int] = {}
    while True:
        # Looked at before reading, so that nothing written before the end is missed.
        on = follow and there()
        for path in following.outputs(run_dir):
            with path.open("rb") as file:
                file.seek(done.get(path, 0))
                while piece := file.read(_CHUNK):
                    yield piece
                done[path] = file.tell()
        if not on:
            break
        time.sleep(_POLL_S)
    if not done:
        raise RunError(f"{run_dir}: no job of this run has written anything yet")


def _asked_now_and_then(run_dir: Path) -> Callable[[], bool]:
    """Return what tells whether a job of a run waits or runs, and spares Slurm the asking."""
    asked_s, answer = 0.0, True

    def there() -> bool:
        nonlocal asked_s, answer
        if not asked_s or time.monotonic() - asked_s > ASK_S:
            asked_s, answer = time.monotonic(), following.is_there(run_dir)
        return answer

    return there


def _submitted(experiment: Experiment, place: Place) -> Iterator[str]:
    target = site.target_of(experiment)
    for text in launcher.warnings(place, target):
        yield f"warning: {text}"
    yield from _told(place.run_dir, launcher.submit(experiment, place, target))


def _told(run_dir: Path, job: str) -> Iterator[str]:
    name = run_dir.name
    yield f"{name}: job {job} is in Slurm's queue"
    yield f"  run        {run_dir}"
    yield f"  log        {run_dir / 'slurm' / f'{job}.out'}"
    yield f"  look       raytune-hpo status {name}"
    yield f"  follow     raytune-hpo logs {name} --job -f"
    yield f"  stop       raytune-hpo stop {name}"
