"""``raytune-hpo chaos``; nothing heavy is imported before it is called."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from raytune_hpo.chaos.plan import Fault
    from raytune_hpo.experiment import Experiment

RETRIES = 3
"""Of a trial whose workers are killed, when the experiment asks for none."""
_BUILT_IN = "chaos-digits"
_NOT_LOST = 0
_LOST = 1
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.argument("file", type=_FILE, required=False)
@click.option("--fail", metavar="SHARE", help="Let 50% of the running trials fail for good.")
@click.option("--kill", metavar="SHARE", help="Kill the workers of so many of them.")
@click.option("--slow", metavar="SHARE", help="Have so many stand still for a while.")
@click.option("--hang", metavar="SHARE", help="Have so many stand still for ever.")
@click.option("--kill-driver", type=click.IntRange(min=0), metavar="N", help="Kill it N times.")
@click.option("--stop-driver", type=click.IntRange(min=0), metavar="N", help="SIGTERM, N times.")
@click.option("--disk-full", is_flag=True, help="Let the journal find no space, once.")
@click.option("--mlflow-outage", is_flag=True, help="Cut MLflow off for a while, once.")
@click.option("--every", default="10s", show_default=True, help="20s, or 36t for finished trials.")
@click.option(
    "--for", "for_s", type=float, default=5.0, show_default=True, help="Seconds it lasts."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the strikes.")
@click.option("--name", help="Name of the run.")
@click.option("--storage", type=click.Path(path_type=Path), metavar="DIR", help="Where runs go.")
@click.option("--set", "overrides", multiple=True, metavar="K=V", help="Change a field.")
@click.option("--trials", type=click.IntRange(min=1), help="How many trials.")
@click.option("--parallel", type=click.IntRange(min=1), help="How many at once.")
@click.option(
    "--silent-limit", default="30s", show_default=True, help="With --hang, if none is set."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures.")
@click.option("--preset", type=click.Choice(["katib-fig7"]), help="An experiment of a paper.")
def chaos(file: Path | None, preset: str | None, **options: Any) -> None:
    """Run the experiment in FILE under faults, and say what was lost.

    Without FILE, a built-in experiment: a small network on handwritten digits. Without any fault:
    --kill 20% --kill-driver 1. The exit code is 0 only if nothing was lost.
    """
    # What was started here ends with this process, also when it is told to end.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _run(file, options) if preset is None else _draw(preset, options)
    finally:
        signal.signal(signal.SIGTERM, before)
    if code:
        raise click.exceptions.Exit(code)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def plan_of(options: dict[str, Any]) -> list[Fault]:
    """Return the faults that the options ask for.

    Raises:
        SpecError: An option cannot be read.
    """
    from raytune_hpo.chaos.plan import Every, Fault, FaultKind, share

    every = Every.parse(options["every"])
    plan = []
    for kind in FaultKind:
        given = options[kind.value.replace("-", "_")]
        if not given:
            continue
        if kind.hits_trials:
            plan.append(Fault(kind, every, share=share(given), for_s=options["for_s"]))
        else:
            plan.append(Fault(kind, every, for_s=options["for_s"], times=int(given)))
    if plan:
        return plan
    return [
        Fault(FaultKind.KILL, every, share=0.2),
        Fault(FaultKind.KILL_DRIVER, every, times=1),
    ]


def _draw(preset: str, options: dict[str, Any]) -> int:
    """Make the curves of the paper's figure, draw it, and return the exit code."""
    from raytune_hpo.chaos import katib, katib_figure

    folder = (options["storage"] or Path.cwd() / preset).absolute()
    parts = katib.run(folder, options["trials"], options["seed"], click.echo)
    for line in [katib.scale(parts), *katib_figure.table(parts)]:
        click.echo(line)
    for path in katib_figure.draw(parts, katib.scale(parts), folder):
        click.echo(f"wrote {path}")
    return _NOT_LOST if all(part.get("nothing_lost", True) for part in parts) else _LOST


def _run(file: Path | None, options: dict[str, Any]) -> int:
    """Run an experiment under a plan, show the verdict, and return the exit code."""
    from rich.console import Console

    from raytune_hpo import journal
    from raytune_hpo.chaos import screen, witness
    from raytune_hpo.chaos.campaign import Campaign
    from raytune_hpo.chaos.tracked import differences
    from raytune_hpo.chaos.verdict import judge

    plan, seed = plan_of(options), options["seed"]
    console = Console(highlight=False, markup=False, soft_wrap=True)
    run_dir, words, uri = _driver(file, plan, options)
    for fault in plan:
        console.print(f"plan: {fault}")
    console.print(f"seed {seed}; run {run_dir}")
    outcome = Campaign(run_dir, words, plan, seed, mlflow_uri=uri, say=console.print).run()
    records = journal.read(run_dir)
    observed = witness.observed(run_dir / witness.FOLDER)
    tracked = None if uri is None else differences(run_dir, records)
    verdict = judge(observed, outcome.seen, records, tracked=tracked)
    screen.show(console, verdict, outcome)
    if options["json_file"] is not None:
        about = {"run_dir": str(run_dir), "seed": seed, "plan": [*map(str, plan)]}
        text = json.dumps(screen.figures(verdict, outcome, **about), indent=1)
        options["json_file"].write_text(text + "\n")
    return _NOT_LOST if verdict.nothing_lost else _LOST


def _driver(
    file: Path | None, plan: Sequence[Fault], options: dict[str, Any]
) -> tuple[Path, list[str], str | None]:
    """Return the run's directory, the words that start its driver, and its MLflow store.

    Raises:
        SpecError: The experiment is wrong.
        RunExistsError: There is such a run already.
    """
    from raytune_hpo import spec
    from raytune_hpo.errors import RunExistsError
    from raytune_hpo.runs import RESULTS_DIR

    storage = (options["storage"] or Path.cwd() / RESULTS_DIR).absolute()
    file = file or _built_in(storage)
    experiment = spec.load(file, options["overrides"])
    changes = [*options["overrides"], *_changes(experiment, plan, options)]
    experiment = spec.load(file, changes)
    name = options["name"] or _free_name(experiment.name, storage)
    if (storage / name).exists():
        raise RunExistsError(f"{storage / name} is there already; name another: --name OTHER")
    words = ["run", str(file), "--name", name, "--storage", str(storage)]
    words += [word for change in changes for word in ("--set", change)]
    return storage / name, words, _mlflow_uri(experiment, file)


def _changes(experiment: Experiment, plan: Sequence[Fault], options: dict[str, Any]) -> list[str]:
    """Return the fields to set: what was asked for, and what the faults call for."""
    from raytune_hpo.chaos.plan import FaultKind

    kinds = {fault.kind for fault in plan}
    changes = [
        f"{name}={options[name]}" for name in ("trials", "parallel") if options[name] is not None
    ]
    if kinds & {FaultKind.KILL, FaultKind.HANG} and not experiment.retries:
        changes.append(f"retries={RETRIES}")
    if FaultKind.HANG in kinds and experiment.silent_limit_s is None:
        changes.append(f"silent_limit={options['silent_limit']}")
    return changes


def _built_in(storage: Path) -> Path:
    """Write the built-in experiment to a file, and return it."""
    import yaml

    from raytune_hpo.chaos import digits

    storage.mkdir(parents=True, exist_ok=True)
    file = storage / f"{_BUILT_IN}.yaml"
    fields = digits.experiment(_BUILT_IN, mlflow={"uri": "sqlite:///mlflow.db"})
    file.write_text(yaml.safe_dump(fields, sort_keys=False))
    return file


def _free_name(stem: str, storage: Path) -> str:
    number = 1
    while (storage / f"{stem[:50]}-chaos-{number}").exists():
        number += 1
    return f"{stem[:50]}-chaos-{number}"


def _mlflow_uri(experiment: Experiment, file: Path) -> str | None:
    if experiment.mlflow is False:
        return None
    from raytune_hpo.tracking.settings import of_header

    header = {
        "spec": experiment.to_json(),
        "name": experiment.name,
        "folder": str(file.absolute().parent),
        "cwd": str(Path.cwd()),
    }
    return of_header(header).uri
