"""The objects of a run: a pure function from settings to a ConfigMap and a RayJob."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from raytune_hpo.cluster.kuberay import names, pods, sizes
from raytune_hpo.cluster.kuberay.demand import Demand, of_rayjob
from raytune_hpo.cluster.kuberay.files import FILE, MOST_BYTES, Files
from raytune_hpo.cluster.kuberay.patching import merge
from raytune_hpo.cluster.kuberay.pods import Object, Run
from raytune_hpo.cluster.kuberay.quantities import noun, shown
from raytune_hpo.cluster.kuberay.sizes import Workers
from raytune_hpo.cluster.kuberay.text import to_yaml as to_yaml
from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.kuberay_target import KubeRayTarget
from raytune_hpo.running import FromEnv, looks_secret

END_S = 600.0
"""Time for the end of a run after its time limit, before the job is ended from outside."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CUSTOM = re.compile(r"[A-Za-z0-9_.:-]+")
_CLUSTER = ("spec", "rayClusterSpec")
_HEAD = (*_CLUSTER, "headGroupSpec", "template")
_WORKER = (*_CLUSTER, "workerGroupSpecs", 0, "template")
_CONTAINER = ("spec", "containers", 0)
_PATCHED: Mapping[str, tuple[str, tuple[str | int, ...]]] = {
    "config_map": ("ConfigMap", ()),
    "rayjob": ("RayJob", ()),
    "head": ("RayJob", _HEAD),
    "head_container": ("RayJob", (*_HEAD, *_CONTAINER)),
    "worker": ("RayJob", _WORKER),
    "worker_container": ("RayJob", (*_WORKER, *_CONTAINER)),
}


@dataclass(frozen=True)
class Place:
    """What a run on Kubernetes is given besides its experiment.

    Attributes:
        source: Text of the experiment file, without secrets.
        ray_version: Of the Ray here, for an image of which nothing else is said.
        overrides: Values in place of those in the file, such as ``search.seed=3``; no secrets.
        code: Content of further files, by their paths beside the experiment file.
    """

    source: str
    ray_version: str
    overrides: Sequence[str] = ()
    code: Mapping[str, bytes] = field(default_factory=dict)


def render(experiment: Experiment, target: KubeRayTarget, place: Place) -> list[Object]:
    """Return the objects of a run, in the order in which they are to be made.

    Args:
        experiment: What is to run.
        target: Settings for KubeRay.
        place: What else there is.

    Raises:
        SpecError: Something is missing, too large or secret; with all of it.
    """
    name = names.rayjob(experiment.name)
    files = Files(name, place.source, place.code, target.folder, target.pvc)
    problems = list(_problems(experiment, target, place, files))
    if problems:
        raise SpecError(problems)
    size = sizes.worker(experiment, target)
    count = sizes.workers(experiment, target, size)
    run = Run(target, name, files, _labels(experiment, target), size, count)
    run = _limited(run, experiment, place)
    objects = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(run, experiment),
            **files.data(),
        },
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": _job_metadata(run, experiment),
            "spec": _job(run, experiment, place),
        },
    ]
    return _patched(objects, target.patches)


def storage_of(experiment: Experiment, target: KubeRayTarget) -> str | None:
    """Return where the runs go: an object store, or a folder of the volume; None for nowhere."""
    told = experiment.storage
    if told is not None and _URL.match(told):
        return told
    if target.pvc is None:
        return None
    inside = told is not None and f"{told}/".startswith(f"{target.pvc.path}/")
    return told if inside else target.pvc.path


def arguments(experiment: Experiment, target: KubeRayTarget, place: Place) -> list[str]:
    """Return the command that the driver is started with, word by word."""
    file = f"{target.folder}/{FILE}" if target.folder else Files("", "", {}, None, None).experiment
    words = ["python", "-m", "raytune_hpo.cluster.kuberay.drive", "run", file, "--resume"]
    words += ["--name", experiment.name, "--storage", str(storage_of(experiment, target))]
    return words + [word for text in place.overrides for word in ("--set", text)]


def entrypoint(words: Sequence[str], mode: str) -> str:
    """Return a command as a RayJob's entrypoint, so that each word arrives as it is.

    A shell takes it apart: that of Ray, or first that of the submitter, whose ``ray job submit``
    quotes the words again. As arguments of the submitter's container, $(NAME) would be replaced.
    """
    text = shlex.join(words)
    return text if mode == "HTTPMode" else pods.literal(text)


def _labels(experiment: Experiment, target: KubeRayTarget) -> dict[str, str]:
    own = {names.EXPERIMENT: names.label(experiment.name), names.MANAGED_BY: names.MANAGER}
    return {**target.labels, **own}


def _metadata(run: Run, experiment: Experiment) -> Object:
    metadata: Object = {"name": run.rayjob}
    if run.target.namespace is not None:
        metadata["namespace"] = run.target.namespace
    annotations = {names.EXPERIMENT: experiment.name, **run.target.annotations}
    return metadata | {"labels": dict(run.labels), "annotations": annotations}


def _job_metadata(run: Run, experiment: Experiment) -> Object:
    metadata = _metadata(run, experiment)
    if run.target.queue is not None:
        metadata["labels"][names.QUEUE] = run.target.queue
        if run.target.autoscaling:
            metadata["annotations"][names.ELASTIC] = "true"
    return metadata


def _job(run: Run, experiment: Experiment, place: Place) -> Object:
    target = run.target
    words = arguments(experiment, target, place)
    spec: Object = {
        "submissionMode": target.submission_mode,
        "entrypoint": entrypoint(words, target.submission_mode),
    }
    if target.runtime_env:
        spec["runtimeEnvYAML"] = json.dumps(target.runtime_env)
    spec["backoffLimit"] = target.retries
    deadline_s = _deadline_s(experiment, target)
    if deadline_s is not None:
        spec["activeDeadlineSeconds"] = math.ceil(deadline_s)
    spec["preRunningDeadlineSeconds"] = math.ceil(target.pending_limit_s)
    spec["shutdownAfterJobFinishes"] = True
    spec["ttlSecondsAfterFinished"] = round(target.ttl_s)
    if target.submission_mode == "K8sJobMode":
        spec["submitterPodTemplate"] = pods.submitter(run)
    return spec | {"rayClusterSpec": _cluster(run, place)}


def _limited(run: Run, experiment: Experiment, place: Place) -> Run:
    """Return a run with no more workers than its own limit leaves room for.

    Raises:
        SpecError: There is no room for one worker.
    """
    limit = run.target.limit
    if limit is None:
        return run
    asked = of_rayjob({"spec": _job(run, experiment, place)})
    used, worker = asked.total({}), asked.groups[0].pod
    limits = {
        "cpu": limit.cpus,
        "memory": limit.memory,
        run.target.worker.gpu_resource: limit.gpus,
    }
    most = run.count.most
    for name, amount in limits.items():
        each = worker.requests.get(name, Decimal(0))
        if amount is not None and each:
            most = min(most, int((Decimal(str(amount)) - used.get(name, Decimal(0))) // each))
    if most < 1:
        raise SpecError([Problem("targets.kuberay.limit", _no_room(asked))])
    return replace(run, count=Workers(min(run.count.least, most), most))


def _no_room(asked: Demand) -> str:
    needed = asked.total({pods.GROUP: 1})
    told = ", ".join(f"{shown(name, amount)} {noun(name)}" for name, amount in needed.items())
    return f"leaves no room for a worker: the head and one worker ask for {told}"


def _deadline_s(experiment: Experiment, target: KubeRayTarget) -> float | None:
    if target.deadline_s is not None or experiment.time_limit_s is None:
        return target.deadline_s
    return target.pending_limit_s + experiment.time_limit_s + END_S


def _cluster(run: Run, place: Place) -> Object:
    target = run.target
    spec: Object = {"rayVersion": target.ray_version or place.ray_version}
    spec["enableInTreeAutoscaling"] = target.autoscaling
    if target.autoscaling:
        spec["autoscalerOptions"] = pods.autoscaler(target)
    if target.token_auth:
        spec["authOptions"] = {"mode": "token"}
    return spec | {"headGroupSpec": pods.head(run), "workerGroupSpecs": [pods.workers(run)]}


def _patched(objects: Sequence[Object], patches: Mapping[str, Any]) -> list[Object]:
    patched = {one["kind"]: one for one in objects}
    for key, (kind, path) in _PATCHED.items():
        if key in patches:
            patched[kind] = _at(patched[kind], path, patches[key])
    return list(patched.values())


def _at(value: Any, path: tuple[str | int, ...], patch: Any) -> Any:
    """Return a value with a patch of what lies at a path in it."""
    if not path:
        return merge(value, patch)
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        return [_at(one, rest, patch) if n == step else one for n, one in enumerate(value)]
    return {**value, step: _at(value[step], rest, patch)}


def _problems(
    experiment: Experiment, target: KubeRayTarget, place: Place, files: Files
) -> Iterator[Problem]:
    if target.image is None:
        message = "has to be said: an image with raytune-hpo and all that trials need"
        yield Problem("targets.kuberay.image", message)
    if storage_of(experiment, target) is None:
        message = (
            "has to be said, since the run must outlive its pods: "
            "a volume such as {claim: NAME}, or storage: s3://BUCKET/FOLDER"
        )
        yield Problem("targets.kuberay.pvc", message)
    for name in experiment.resources.custom:
        if not _CUSTOM.fullmatch(name):
            message = (
                "must be of letters, digits, _, ., : and - for KubeRay, which has it in a shell"
            )
            yield Problem(f"resources.custom.{name}", message)
    yield from _file_problems(files)
    yield from _secret_problems(experiment, target, place)


def _file_problems(files: Files) -> Iterator[Problem]:
    held = files.data()
    keys = [*held["data"], *held.get("binaryData", {})]
    if len(keys) <= len(files.code):
        message = f"two of the files would have one name among {', '.join(sorted(keys))}"
        yield Problem("targets.kuberay.code", message)
    if files.bytes > MOST_BYTES:
        message = (
            f"with the experiment file it is {files.bytes // 1024} KiB, and {MOST_BYTES // 1024} "
            "KiB is the most; put it into the image, or write runtime_env: {working_dir: URL}"
        )
        yield Problem("targets.kuberay.code", message)


def _secret_problems(
    experiment: Experiment, target: KubeRayTarget, place: Place
) -> Iterator[Problem]:
    sent = [place.source, *place.overrides]
    for name, value in experiment.env.items():
        secret = isinstance(value, str) and looks_secret(name)
        if secret and value and any(str(value) in text for text in sent):
            message = "its value must not stand in a manifest; write {from_env: NAME}"
            yield Problem(f"env.{name}", message)
        wanted = value.from_env if isinstance(value, FromEnv) else name if secret else None
        given = wanted in target.env_from_secret or wanted in target.env or target.env_from
        if wanted is not None and not given:
            message = (
                f"is looked up where the driver starts; give it to the pods: targets.kuberay: "
                f"{{env_from_secret: {{{wanted}: {{secret: NAME, key: KEY}}}}}}"
            )
            yield Problem(f"env.{name}", message)
