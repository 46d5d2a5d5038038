"""Runs on Kubernetes, from where a person sits: submit, follow, stop, go on."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raytune_hpo import runs, spec
from raytune_hpo.cluster.kuberay import (
    dashboard,
    files,
    follow,
    handle,
    manifest,
    output,
    preflight,
    rules,
    site,
    submit,
    tenants,
    tenants_file,
    text,
)
from raytune_hpo.cluster.kuberay.api import Api, connect
from raytune_hpo.cluster.kuberay.handle import Handle
from raytune_hpo.cluster.kuberay.reasons import Standing
from raytune_hpo.doctor import Finding
from raytune_hpo.errors import InfrastructureError, Problem, RunError, SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.running import refuse_secrets
from raytune_hpo.storage import place

OBJECTS_FILE = "objects.yaml"
"""What was submitted, in the folder for KubeRay of a run's folder here."""

Objects = list[dict[str, Any]]


@dataclass(frozen=True)
class Submitted:
    """What is kept here of a run that was submitted.

    Attributes:
        namespace: Of the RayJob.
        rayjob: Its name.
        uid: Of this very RayJob.
        storage: URL of the run, where it is kept in an object store, or None.
        t: Unix time in seconds.
    """

    namespace: str
    rayjob: str
    uid: str
    storage: str | None
    t: float


def objects_of(file: Path, experiment: Experiment, overrides: Sequence[str]) -> Objects:
    """Return the objects of an experiment in a file, as they are sent.

    Args:
        file: The experiment file.
        experiment: What is in it, with the overrides.
        overrides: Values in place of those in the file, such as ``search.seed=3``.

    Raises:
        SpecError: KubeRay would not take them; with all that is wrong.
    """
    refuse_secrets(overrides, "a manifest")
    target = site.target_of(experiment)
    source = spec.redacted(file.read_text("utf-8"))
    code = files.read(file.absolute().parent, target)
    there = manifest.Place(source, version("ray"), tuple(overrides), code)
    objects = manifest.render(experiment, target, there)
    found = [
        problem for one in objects if one["kind"] == "RayJob" for problem in rules.problems(one)
    ]
    if found:
        raise SpecError([Problem("targets.kuberay", problem) for problem in found])
    return objects


def rendered(objects: Objects) -> str:
    """Return the objects as text for ``kubectl apply -f -``."""
    return text.to_yaml(objects)


def url_of(experiment: Experiment) -> str | None:
    """Return the URL of a run that is kept in an object store, or None."""
    target = site.target_of(experiment)
    storage = manifest.storage_of(experiment, target)
    if storage is None or not place.is_url(storage):
        return None
    return place.join(storage, experiment.name)


def send(experiment: Experiment, objects: Objects, *, resume: bool) -> Iterator[str]:
    """Submit the objects of a run, and yield what there is to say about it.

    Raises:
        RunError: It was submitted before, and ``resume`` was not asked for.
        InfrastructureError: It will not run there, or is not taken; says why.
    """
    run_dir = (runs.RESULTS_DIR / experiment.name).absolute()
    if not resume and record(run_dir) is not None:
        raise RunError(
            f"{run_dir}: this run was submitted before. Go on with it: raytune-hpo resume "
            f"{run_dir.name}; or start another one: --name OTHER"
        )
    yield from (_warning(finding) for finding in untracked(experiment))
    yield from _send(run_dir, objects, url_of(experiment))


def untracked(experiment: Experiment) -> Iterator[Finding]:
    """Yield a warning when MLflow would lose what it holds of a run with the head's pod."""
    target = site.target_of(experiment)
    section = experiment.mlflow
    wanted = section is not False and not (section and section.uri)
    # What a whole secret or config map brings is not known here.
    if not wanted or "MLFLOW_TRACKING_URI" in {**target.env, **target.env_from_secret}:
        return
    if target.env_from:
        return
    yield Finding(
        "mlflow",
        "warn",
        "no server is named, so its store lies in the head's pod and goes with it: name one with "
        "`mlflow: {uri: ...}` or targets.kuberay.env: {MLFLOW_TRACKING_URI: ...}, or write "
        "`mlflow: false`",
    )


def _send(run_dir: Path, objects: Objects, url: str | None) -> Iterator[str]:
    api = _api(objects)
    yield from _looked_at(api, objects)
    made = submit.submit(api, objects)
    folder = run_dir / runs.KUBERAY
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OBJECTS_FILE).write_text(rendered(objects))
    kept = Submitted(made.namespace, made.name, made.uid, url, time.time())
    (folder / runs.SUBMITTED_FILE).write_text(json.dumps(asdict(kept)) + "\n")
    name = run_dir.name
    yield f"{name}: RayJob {made.name} was made in namespace {made.namespace}"
    if url is not None:
        yield f"  run        {url}"
    yield f"  look       raytune-hpo status {name}"
    yield f"  follow     raytune-hpo logs {name} --job -f"
    yield f"  stop       raytune-hpo stop {name}"


def examined(experiment: Experiment, objects: Objects) -> Iterator[Finding]:
    """Yield what there is to say before anything of a run is submitted to a cluster."""
    yield from untracked(experiment)
    for found in preflight.examine(_api(objects), objects):
        yield Finding(found.subject, found.verdict, found.text)


def tenants_text(file: Path) -> str:
    """Return the namespaces of the teams in a file, as text for ``kubectl apply -f -``.

    Raises:
        SpecError: The file is wrong, with the places.
    """
    return text.to_yaml(tenants.render(tenants_file.load(file)))


@contextlib.contextmanager
def dashboard_of(run_dir: Path) -> Iterator[dashboard.Dashboard]:
    """Give the dashboard of the Ray that carries a run while in the context.

    Raises:
        InfrastructureError: It has no head now, or its port cannot be forwarded.
    """
    with dashboard.opened(*_at(_kept(run_dir))) as there:
        yield there


def _api(objects: Sequence[Mapping[str, Any]]) -> Api:
    namespaces = {one["metadata"].get("namespace") for one in objects}
    return connect(namespace=namespaces.pop())


def _looked_at(api: Api, objects: Objects) -> Iterator[str]:
    """Yield warnings of the preflight.

    Raises:
        InfrastructureError: Something is missing without which the run could not go.
    """
    findings = list(preflight.examine(api, objects))
    wrong = [f"{one.subject}: {one.text}" for one in findings if one.verdict == "fail"]
    if wrong:
        raise InfrastructureError(
            "nothing was submitted, since it would not run:\n  " + "\n  ".join(wrong)
        )
    yield from (_warning(one) for one in findings if one.verdict == "warn")


def _warning(found: Finding | preflight.Finding) -> str:
    return f"warning: {found.subject}: {found.text}"


def record(run_dir: Path) -> Submitted | None:
    """Return what is kept of a run that was submitted from here, or None."""
    try:
        content = json.loads((run_dir / runs.KUBERAY / runs.SUBMITTED_FILE).read_text())
    except FileNotFoundError:
        return None
    return Submitted(**content)


def status(kept: Submitted) -> str:
    """Return where the RayJob of a run stands, in a sentence with the next step."""
    try:
        return _told(kept, follow.observe(*_at(kept)))
    except InfrastructureError as error:
        return f"RayJob {kept.rayjob}: not known ({error})"


def changes(run_dir: Path) -> Iterator[str]:
    """Yield where a run stands, now and whenever that changes, until it is over.

    Raises:
        InfrastructureError: The cluster cannot be asked any more.
    """
    kept = _kept(run_dir)
    for standing in follow.follow(*_at(kept)):
        yield _told(kept, standing)


def _told(kept: Submitted, standing: Standing) -> str:
    step = f" ({standing.step})" if standing.step else ""
    return f"RayJob {kept.rayjob} {standing.text}{step}"


def job_output(run_dir: Path, *, follow_on: bool) -> Iterator[bytes]:
    """Yield what the driver of a run writes.

    Raises:
        InfrastructureError: Its pods are gone, or the cluster does not answer.
    """
    return output.driver_lines(*_at(_kept(run_dir)), follow=follow_on)


def stop(run_dir: Path) -> str:
    """Stop a run and return what was done, in a sentence.

    A run in an object store is asked to, as anywhere. The volume of another one cannot be reached
    from here, so its pods are taken away; it goes on from its latest checkpoints.

    Raises:
        InfrastructureError: The cluster does not answer, or it may not be stopped.
    """
    kept = _kept(run_dir)
    if kept.storage is not None:
        folder = runs.find(kept.storage)
        if runs.holder(folder) is not None:
            runs.request_stop(folder)
            return "its driver was asked to stop; it keeps all results"
    return suspend(run_dir)


def suspend(run_dir: Path) -> str:
    """Take the pods of a run away until it is resumed; return what was done, in a sentence.

    Raises:
        InfrastructureError: The cluster does not answer, or it may not be suspended.
    """
    api, job = _at(_kept(run_dir))
    if follow.observe(api, job).over:
        return "it is over, so there is nothing to stop"
    submit.suspend(api, job)
    return "its pods are taken away; all that was acknowledged is kept"


def go_on(run_dir: Path) -> Iterator[str]:
    """Have a run go on: the RayJob that was suspended, or a new one; yield what there is to say.

    Raises:
        InfrastructureError: The cluster does not answer or does not take it.
    """
    kept = _kept(run_dir)
    api, job = _at(kept)
    if follow.observe(api, job).state in ("suspended", "suspending"):
        submit.resume(api, job)
        yield f"{run_dir.name}: RayJob {kept.rayjob} goes on"
        return
    objects = text.from_yaml((run_dir / runs.KUBERAY / OBJECTS_FILE).read_text())
    yield from _send(run_dir, objects, kept.storage)


def _kept(run_dir: Path) -> Submitted:
    kept = record(run_dir)
    if kept is None:
        raise RunError(f"{run_dir}: this run was not submitted to Kubernetes from here")
    return kept


def _at(kept: Submitted) -> tuple[Api, Handle]:
    return connect(namespace=kept.namespace), handle.Handle(kept.namespace, kept.rayjob, kept.uid)
