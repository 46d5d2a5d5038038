"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from raytune_hpo import escape, exits
from raytune_hpo.chaos.command import chaos
from raytune_hpo.errors import (
    InfrastructureError,
    JournalError,
    RaytuneHpoError,
    RunError,
    RunLockedError,
)

if TYPE_CHECKING:
    from raytune_hpo.doctor import Finding
    from raytune_hpo.experiment import Experiment
    from raytune_hpo.on_kuberay import Submitted
    from raytune_hpo.results import RunResult
    from raytune_hpo.state import RunState
    from raytune_hpo.view.apply import Format
    from raytune_hpo.view.live import LiveView

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
_RUN = click.argument("run", required=False)
_NO_REPAIR = (
    "a store keeps whole objects, so a journal there is not torn. If somebody changed its objects, "
    "put them back from a backup, or from an earlier version if the bucket keeps those"
)


_NOT_CHANGED = (
    "a run on Kubernetes goes on as it was submitted; with other limits: raytune-hpo run FILE "
    "--on kuberay --resume --trials N"
)


class _Failure(click.ClickException):
    """A message without a traceback, and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        # It may quote a hostile file or journal.
        text = "\n".join(escape.visible(line) for line in self.format_message().split("\n"))
        click.echo(text, file=file, err=file is None)


class _Commands(click.Group):
    """A group that turns this package's errors into messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RaytuneHpoError as error:
            raise _Failure(str(error), _exit_code(error)) from error
        except KeyboardInterrupt:
            raise _Failure("interrupted", exits.INTERRUPTED) from None


def _exit_code(error: RaytuneHpoError) -> int:
    surroundings = isinstance(error, InfrastructureError | JournalError | RunLockedError)
    return exits.INFRASTRUCTURE if surroundings else exits.SPEC


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="raytune-hpo", message="%(prog)s %(version)s")
def cli() -> None:
    """Tune the parameters of any program or model with Ray Tune.

    Start with: raytune-hpo init, then: raytune-hpo run experiment.yaml

    RUN is the name of a run in ./raytune-results, its directory, or its URL in a store such as
    s3://bucket/runs/NAME; without one, the newest in ./raytune-results.

    Exit codes: 0 ok, 1 no trial succeeded, 2 the experiment is wrong, 3 infrastructure,
    130 interrupted (resume goes on).
    """


def main() -> NoReturn:
    """Run the command line and exit."""
    cli(prog_name="raytune-hpo")
    sys.exit(0)


# Before a run


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--slurm", is_flag=True, help="Write settings for Slurm of all your experiments.")
@click.option("--kuberay", is_flag=True, help="Write settings for KubeRay of all experiments.")
def init(file: Path | None, slurm: bool, kuberay: bool) -> None:
    """Write a commented starter FILE (experiment.yaml)."""
    from raytune_hpo import spec

    if kuberay:
        _init_kuberay(file)
        return
    if slurm:
        _init_slurm(file)
        return
    file = Path("experiment.yaml") if file is None else file
    try:
        with file.open("x") as target:
            target.write(spec.starter())
    except FileExistsError:
        raise _Failure(f"{file} is there already; name another file", exits.SPEC) from None
    except OSError as error:
        raise _Failure(f"{file} cannot be written: {error.strerror}", exits.SPEC) from error
    click.echo(f"wrote {file}. Adapt it, then: raytune-hpo check {file} && raytune-hpo run {file}")


@cli.command()
@_FILE
@click.option("--set", "overrides", multiple=True, metavar="K=V", help="Change a field.")
def check(file: Path, overrides: Sequence[str]) -> None:
    """Read FILE and say what is wrong with it, without running anything."""
    from raytune_hpo.view.plan import outline, shortages

    experiment = _load(file, overrides)
    click.echo(f"{file}: ok")
    click.echo(outline(experiment), nl=False)
    for line in shortages(experiment):
        click.echo(f"warning: {line}", err=True)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of the experiment file, for editors."""
    from raytune_hpo import spec

    click.echo(json.dumps(spec.schema(), indent=2))


@cli.command()
@click.argument("target", metavar="[FILE|RUN|URL]", required=False)
@click.option("--on", "place", type=click.Choice(["local", "kuberay"]), default="local")
@click.option("--set", "overrides", multiple=True, metavar="K=V", help="Change a field of FILE.")
def doctor(target: str | None, place: str, overrides: Sequence[str]) -> None:
    """Look whether this machine is ready; with FILE or RUN, whether its stores are too.

    The URL of an object store is looked at also when there is no run in it yet. With --on kuberay
    and FILE: whether the cluster that kubectl uses would run it.
    """
    from raytune_hpo import doctor as look

    findings: Iterable[Finding] = (
        _of_cluster(target, overrides) if place == "kuberay" else look.examine(*_stores(target))
    )
    marks = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}
    failed = False
    for finding in findings:
        click.echo(
            f"{marks[finding.verdict]}  {finding.subject:<14} {escape.visible(finding.text)}"
        )
        failed = failed or finding.verdict == "fail"
    if failed:
        raise click.exceptions.Exit(exits.INFRASTRUCTURE)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def tenants(file: Path) -> None:
    """Print what ``kubectl apply -f -`` makes the namespaces of the teams in FILE of.

    Each gets a role for its users, quotas, limits and a network policy.
    """
    from raytune_hpo import on_kuberay

    if not file.is_file():
        raise _Failure(f"there is no file {file}; see docs/tutorial-kuberay.md", exits.SPEC)
    click.echo(on_kuberay.tenants_text(file), nl=False)


# A run


@cli.command("run")
@_FILE
@click.option("--name", help="Name of the run.")
@click.option("--storage", metavar="DIR|URL", help="Where runs go; such as s3://bucket/runs.")
@click.option("--set", "overrides", multiple=True, metavar="K=V", help="Change a field.")
@click.option("--trials", type=click.IntRange(min=1), help="How many trials.")
@click.option("--parallel", type=click.IntRange(min=1), help="How many at once.")
@click.option("--resume", is_flag=True, help="Go on if there is a run of this name, else start.")
@click.option("--on", "place", type=click.Choice(["local", "slurm", "kuberay"]), default="local")
@click.option("--dry-run", is_flag=True, help="Show what would run, and run nothing.")
@click.option("--detach", is_flag=True, help="With --on kuberay: submit, and do not follow it.")
@click.option("--quiet", is_flag=True, help="Print the result only.")
def run_command(
    file: Path,
    name: str | None,
    storage: str | None,
    overrides: Sequence[str],
    trials: int | None,
    parallel: int | None,
    resume: bool,
    place: str,
    dry_run: bool,
    detach: bool,
    quiet: bool,
) -> None:
    """Run the experiment in FILE."""
    options = {
        "name": name,
        "storage": storage if storage is None or place == "kuberay" else _absolute(storage),
        "trials": trials,
        "parallel": parallel,
    }
    given = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    experiment = _load(file, [*overrides, *given])
    if place == "kuberay":
        _run_on_kuberay(file, experiment, [*overrides, *given], resume, detach, dry_run)
        return
    experiment = _stored_here(experiment, file)
    if place == "slurm":
        from raytune_hpo import on_slurm

        there = on_slurm.place_of(file, experiment, [*overrides, *given])
        if dry_run:
            click.echo(on_slurm.rendered(experiment, there), nl=False)
            return
        for line in on_slurm.submit(experiment, there, resume=resume):
            click.echo(line, err=line.startswith("warning"))
        return
    if dry_run:
        from raytune_hpo.view.plan import plan

        click.echo(plan(experiment), nl=False)
        return
    from raytune_hpo import spec
    from raytune_hpo.session import Surroundings, run_dir_of, run_experiment

    folder = file.absolute().parent
    source = spec.redacted(file.read_text("utf-8"))
    with _view(run_dir_of(experiment, folder), quiet) as view:
        run_dir = run_experiment(
            experiment,
            folder=folder,
            source=source,
            resume=resume,
            surroundings=Surroundings(view, view.note, exits_process=True),
        )
    _conclude(run_dir)


@cli.command()
@_RUN
@click.option("--trials", type=click.IntRange(min=1), help="New budget, finished trials included.")
@click.option("--parallel", type=click.IntRange(min=1), help="How many at once.")
@click.option("--time-limit", metavar="TIME", help="For this session: 90s, 10m, 2h, 1d.")
@click.option("--trust", "trusted", is_flag=True, help="Also if others can write to the run.")
@click.option(
    "--on",
    "place",
    type=click.Choice(["local", "slurm"]),
    help="Where; default: where it ran before.",
)
@click.option("--quiet", is_flag=True, help="Print the result only.")
def resume(
    run: str | None,
    trials: int | None,
    parallel: int | None,
    time_limit: str | None,
    trusted: bool,
    place: str | None,
    quiet: bool,
) -> None:
    """Go on with a RUN that was interrupted, or give it more trials."""
    from raytune_hpo import on_kuberay, on_slurm
    from raytune_hpo.session import Limits, Surroundings, resume_run

    run_dir = _find(run, where_submitted=True)
    if place is None and on_kuberay.record(run_dir) is not None:
        if trials or parallel or time_limit:
            raise _Failure(_NOT_CHANGED, exits.SPEC)
        _say_all(on_kuberay.go_on(run_dir))
        return
    limits = Limits(trials, parallel, None if time_limit is None else _seconds(time_limit))
    if place == "slurm" or (place is None and on_slurm.ran_there(run_dir)):
        for line in on_slurm.submit_again(run_dir, limits, trusted=trusted):
            click.echo(line, err=line.startswith("warning"))
        return
    with _view(run_dir, quiet) as view:
        run_dir = resume_run(
            run_dir,
            limits=limits,
            trusted=trusted,
            surroundings=Surroundings(view, view.note, exits_process=True),
        )
    _conclude(run_dir)


@cli.command()
@_RUN
def status(run: str | None) -> None:
    """Say how far a RUN is, and what it has found."""
    from raytune_hpo import journal, on_kuberay, runs
    from raytune_hpo.view.summary import status as status_text
    from raytune_hpo.view.text import mlflow_text

    run_dir = _find(run, where_submitted=True)
    kept = on_kuberay.record(run_dir)
    if kept is not None:
        click.echo(escape.visible(on_kuberay.status(kept)))
        run_dir = _read_from(kept) or run_dir
    if not journal.exists(run_dir):
        _say_jobs(run_dir, finished=False)
        return
    state = _result(run_dir).state
    text = status_text(
        state,
        run_dir,
        holder=runs.holder(run_dir),
        now_t=time.time(),
        tracking=mlflow_text(state),
    )
    click.echo(text, nl=False)
    _say_jobs(run_dir, finished=state.finish is not None and exit_code(state) != exits.INTERRUPTED)


@cli.command()
@_RUN
@click.argument("trial", type=click.IntRange(min=0), required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the trial or the run is over.")
@click.option("--stderr", is_flag=True, help="What the trial wrote to its standard error.")
@click.option("--job", is_flag=True, help="What the run's Slurm jobs wrote, one after the other.")
def logs(run: str | None, trial: int | None, follow: bool, stderr: bool, job: bool) -> None:
    """Print what TRIAL of RUN wrote; without TRIAL, what Ray had to say.

    On a terminal, colours pass and all other control characters are written out. To a file or
    another program goes what was written, byte by byte.
    """
    from raytune_hpo import runs

    if run is not None and trial is None and run.isdigit() and not runs.is_known(run):
        trial = int(run)
        run = None
    run_dir = _find(run, where_submitted=job)
    if job:
        from raytune_hpo import on_kuberay, on_slurm

        if on_kuberay.record(run_dir) is not None:
            pieces = on_kuberay.job_output(run_dir, follow_on=follow)
        else:
            pieces = on_slurm.job_output(run_dir, follow=follow)
    else:
        over = _is_over(run_dir, trial) if follow else None
        pieces = runs.output(run_dir, trial, stderr=stderr, over=over)
    if not sys.stdout.isatty():
        for piece in pieces:
            click.echo(piece, nl=False)
        return
    try:
        for piece in escape.for_terminal(pieces, sys.stdout.encoding):
            click.echo(piece, nl=False)
    finally:
        click.echo(escape.RESET, nl=False)


@cli.command()
@_RUN
def stop(run: str | None) -> None:
    """Ask the driver of a RUN to stop safely."""
    from raytune_hpo import runs
    from raytune_hpo.view.text import reference

    run_dir = _find(run, where_submitted=True)
    again = f"go on later with: raytune-hpo resume {reference(run_dir)}"
    from raytune_hpo import on_kuberay

    if on_kuberay.record(run_dir) is not None:
        click.echo(f"{run_dir.name}: {on_kuberay.stop(run_dir)}; {again}")
        return
    holder = runs.holder(run_dir)
    if holder is None:
        from raytune_hpo.slurm import follow

        job = follow.take_back(run_dir)
        if job is not None:
            click.echo(f"{run_dir.name}: job {job} was taken out of Slurm's queue; {again}")
            return
        click.echo(f"{run_dir.name}: no driver is running, so there is nothing to stop; {again}")
        return
    runs.request_stop(run_dir)
    click.echo(
        f"{run_dir.name}: process {holder['pid']} on {holder['host']} was asked to stop. Within "
        f"seconds it ends what still runs, and keeps all results; {again}"
    )


@cli.command()
@_RUN
def suspend(run: str | None) -> None:
    """Take away the pods of a RUN on Kubernetes, until `resume`."""
    from raytune_hpo import on_kuberay
    from raytune_hpo.view.text import reference

    run_dir = _find(run, where_submitted=True)
    again = f"go on later with: raytune-hpo resume {reference(run_dir)}"
    click.echo(f"{run_dir.name}: {on_kuberay.suspend(run_dir)}; {again}")


@cli.command()
@_RUN
def dashboard(run: str | None) -> None:
    """Show the dashboard of the Ray that carries a RUN on Kubernetes, until Ctrl-C."""
    from raytune_hpo import on_kuberay

    with on_kuberay.dashboard_of(_find(run, where_submitted=True)) as there:
        click.echo(there.url)
        if there.token_command:
            click.echo(f"its token: {there.token_command}")
        click.echo("Ctrl-C ends this", err=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600.0)


@cli.command()
@_RUN
def repair(run: str | None) -> None:
    """Make a damaged journal of a RUN readable up to the damage; a copy is kept."""
    from raytune_hpo import journal, lock
    from raytune_hpo.storage import place

    run_dir = _find(run)
    if place.url_of(run_dir) is not None:
        raise _Failure(f"{place.shown(run_dir)}: {_NO_REPAIR}", exits.SPEC)
    held = lock.RunLock(run_dir)
    try:
        done = journal.repair(run_dir)
    finally:
        held.release()
    if done is None:
        click.echo(f"{run_dir.name}: the journal is whole, so there is nothing to repair")
        return
    click.echo(
        f"{run_dir.name}: kept {done.damage.records} records, up to byte {done.damage.offset} of "
        f"{done.damage.path.name}; gave up {done.lines} lines from there on. The journal as it was "
        f"is in {done.backup}"
    )


@cli.command()
@_RUN
@click.option("--trial", type=click.IntRange(min=0), help="Another trial than the best.")
@click.option(
    "--format", "form", type=click.Choice(["yaml", "json", "env", "args"]), default="yaml"
)
def best(run: str | None, trial: int | None, form: Format) -> None:
    """Print the best configuration of a RUN, ready to be applied."""
    from raytune_hpo.view.apply import applied, chosen_trial

    state = _result(_find(run)).state
    click.echo(applied(state, chosen_trial(state, trial), form), nl=False)


cli.add_command(chaos)


@cli.group(cls=_Commands)
def mlflow() -> None:
    """What has to do with MLflow."""


@mlflow.command()
@_RUN
@click.option("--uri", help="Another store than the run's own.")
@click.option("--experiment", help="Another MLflow experiment than the run's own.")
def sync(run: str | None, uri: str | None, experiment: str | None) -> None:
    """Bring all of a RUN to its MLflow store, such as after an outage; safe to repeat."""
    from raytune_hpo.tracking.sync import sync as bring

    click.echo(escape.visible(bring(_find(run), uri, experiment)))


# Parts of the commands


def _init_slurm(file: Path | None) -> None:
    from raytune_hpo.slurm import site

    file = site.path_of() if file is None else file
    try:
        partitions = site.write_starter(file)
    except FileExistsError:
        raise _Failure(f"{file} is there already; edit it", exits.SPEC) from None
    except OSError as error:
        raise _Failure(f"{file} cannot be written: {error.strerror}", exits.SPEC) from error
    seen = f"; partitions here: {partitions}" if partitions else ""
    click.echo(f"wrote {file}{seen}. Adapt it; it holds for all experiments with --on slurm")


def _init_kuberay(file: Path | None) -> None:
    from raytune_hpo.cluster.kuberay import site

    file = site.path_of() if file is None else file
    try:
        site.write_starter(file)
    except FileExistsError:
        raise _Failure(f"{file} is there already; edit it", exits.SPEC) from None
    except OSError as error:
        raise _Failure(f"{file} cannot be written: {error.strerror}", exits.SPEC) from error
    click.echo(f"wrote {file}. Adapt it; it holds for all experiments with --on kuberay")


def _of_cluster(target: str | None, overrides: Sequence[str]) -> Iterable[Finding]:
    """Return what there is to say of a cluster that an experiment is to run on."""
    from raytune_hpo import on_kuberay

    if target is None:
        raise _Failure("name the experiment: doctor FILE --on kuberay", exits.SPEC)
    file = Path(target)
    experiment = _load(file, overrides)
    return on_kuberay.examined(experiment, on_kuberay.objects_of(file, experiment, overrides))


def _say_jobs(run_dir: Path, *, finished: bool) -> None:
    from raytune_hpo.slurm import follow

    for line in follow.status(run_dir, finished=finished):
        click.echo(escape.visible(line))


def _load(file: Path, overrides: Sequence[str]) -> Experiment:
    from raytune_hpo import spec

    if not file.is_file():
        raise _Failure(
            f"there is no file {file}; write one with: raytune-hpo init {file}", exits.SPEC
        )
    return spec.load(file, overrides)


def _stored_here(experiment: Experiment, file: Path) -> Experiment:
    """Return the experiment with its runs in the working folder, unless it says where."""
    from raytune_hpo.runs import RESULTS_DIR

    if experiment.storage is not None or file.absolute().parent == Path.cwd():
        return experiment
    return experiment.model_copy(update={"storage": str(Path.cwd() / RESULTS_DIR)})


def _absolute(storage: str) -> str:
    from raytune_hpo.storage import place

    return storage if place.is_url(storage) else str(Path(storage).absolute())


def _find(run: str | None, *, where_submitted: bool = False) -> Path:
    """Return the folder of a run; with its records, unless where it was submitted from is asked."""
    from raytune_hpo import on_kuberay, runs

    run_dir = runs.find(run)
    if run is None:
        click.echo(f"run {run_dir}", err=True)
    if not where_submitted and (kept := on_kuberay.record(run_dir)) is not None:
        return _read_from(kept) or run_dir
    return run_dir


def _read_from(kept: Submitted) -> Path | None:
    """Return the folder with a copy of a run's records that a store holds, or None."""
    from raytune_hpo import runs

    if kept.storage is None:
        return None
    try:
        return runs.find(kept.storage)
    except RunError:
        # It has not begun.
        return None


def _run_on_kuberay(
    file: Path,
    experiment: Experiment,
    overrides: Sequence[str],
    resume: bool,
    detach: bool,
    dry_run: bool,
) -> None:
    from raytune_hpo import on_kuberay, runs

    objects = on_kuberay.objects_of(file, experiment, overrides)
    if dry_run:
        click.echo(on_kuberay.rendered(objects), nl=False)
        return
    _say_all(on_kuberay.send(experiment, objects, resume=resume))
    if detach:
        return
    run_dir = (runs.RESULTS_DIR / experiment.name).absolute()
    try:
        _say_all(on_kuberay.changes(run_dir))
    except KeyboardInterrupt:
        click.echo("the run goes on without this command", err=True)
        return
    kept = on_kuberay.record(run_dir)
    there = None if kept is None else _read_from(kept)
    if there is not None:
        _conclude(there)


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(escape.visible(line), err=line.startswith("warning"))


def _result(run_dir: Path) -> RunResult:
    from raytune_hpo.results import RunResult

    return RunResult.load(run_dir)


class _Silence:
    """A view that shows nothing."""

    def __enter__(self) -> _Silence:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing was opened."""

    def __call__(self, records: Sequence[dict[str, Any]]) -> None:
        """Show nothing."""

    def note(self, message: str) -> None:
        """Show nothing."""


def _view(run_dir: Path, quiet: bool) -> LiveView | _Silence:
    from raytune_hpo.view.live import LiveView

    return _Silence() if quiet else LiveView(run_dir)


def _conclude(run_dir: Path) -> None:
    """Print the summary and exit with the code that the run's end asks for."""
    from raytune_hpo.view.summary import summary
    from raytune_hpo.view.text import mlflow_text

    state = _result(run_dir).state
    click.echo(summary(state, run_dir, tracking=mlflow_text(state)), nl=False)
    code = exit_code(state)
    if code:
        raise click.exceptions.Exit(code)


def exit_code(state: RunState) -> int:
    """Return the exit code that the end of a run asks for."""
    reason = state.finish.reason if state.finish else "interrupted"
    special = {
        "interrupted": exits.INTERRUPTED,
        "stopped": exits.INTERRUPTED,
        "spec": exits.SPEC,
        "searcher": exits.SPEC,
        "infrastructure": exits.INFRASTRUCTURE,
    }
    if reason in special:
        return special[reason]
    succeeded = any(trial.outcome().values is not None for trial in state.trials.values())
    return 0 if succeeded else exits.NOTHING_SUCCEEDED


def _is_over(run_dir: Path, trial: int | None) -> Callable[[], bool]:
    """Return what tells whether a log will grow no more."""
    from raytune_hpo import runs
    from raytune_hpo.journal import Follower
    from raytune_hpo.state import RunState

    state = RunState()
    follower = Follower(run_dir)

    def over() -> bool:
        if runs.holder(run_dir) is None:
            return True
        for record in follower.poll():
            state.apply(record)
        return trial in state.trials and state.trials[trial].state.finished

    return over


def _seconds(duration: str) -> float:
    from pydantic_core import PydanticCustomError

    from raytune_hpo import fields

    try:
        return fields.duration(duration)
    except PydanticCustomError as error:
        raise click.BadParameter(error.message(), param_hint="--time-limit") from error


def _stores(target: str | None) -> tuple[str | None, str | None]:
    """Return the MLflow store, and the object store, of an experiment file or of a run.

    None stands for one that is not used.
    """
    from raytune_hpo.storage import place
    from raytune_hpo.tracking.settings import of_header

    if target is None:
        return None, None
    if place.is_url(target):
        return None, target
    file = Path(target)
    if file.is_file():
        experiment = _load(file, ())
        spec, folder = experiment.to_json(), str(file.absolute().parent)
        header: dict[str, Any] = {"spec": spec, "name": experiment.name, "folder": folder}
    else:
        header = _result(_find(target)).state.header
    storage = header["spec"].get("storage")
    return (
        None if header["spec"].get("mlflow") is False else of_header(header).uri,
        storage if storage and place.is_url(storage) else None,
    )
