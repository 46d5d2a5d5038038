"""Can this run start on that cluster? Looks at what is known before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raytune_hpo.cluster.kuberay import kinds, refers, room, schema
from raytune_hpo.cluster.kuberay.api import Api, Right
from raytune_hpo.cluster.kuberay.demand import Demand, of_rayjob
from raytune_hpo.cluster.kuberay.denials import role_rule
from raytune_hpo.cluster.kuberay.kinds import RAYJOB
from raytune_hpo.cluster.kuberay.names import KUEUE, OPERATOR, QUEUE, SECURITY_LEVEL
from raytune_hpo.cluster.kuberay.refused import INSTALL, KubernetesError

Object = Mapping[str, Any]
Verdict = Literal["ok", "warn", "fail"]
Rights = tuple[tuple[Right, str], ...]

NEEDED: Rights = (
    (Right("create", RAYJOB), "to submit"),
    (Right("get", RAYJOB), "to see where a run stands"),
    (Right("list", RAYJOB), "to follow"),
    (Right("watch", RAYJOB), "to follow"),
    (Right("patch", RAYJOB), "to suspend and resume"),
    (Right("delete", RAYJOB), "to take a run back"),
    (Right("get", kinds.CONFIG_MAP), "to submit"),
    (Right("create", kinds.CONFIG_MAP), "to submit"),
    (Right("patch", kinds.CONFIG_MAP), "to have it checked before"),
    (Right("delete", kinds.CONFIG_MAP), "to submit again"),
)
USEFUL: Rights = (
    (Right("get", kinds.RAYCLUSTER), "to say why pods are not made"),
    (Right("get", kinds.POD), "to read logs"),
    (Right("list", kinds.POD), "to say why pods do not start"),
    (Right("get", kinds.POD, "log"), "to read logs"),
    (Right("create", kinds.POD, "portforward"), "to show the dashboard"),
    (Right("list", kinds.EVENT), "to say why pods do not start"),
    (Right("list", kinds.QUOTA), "to say before what does not fit"),
    (Right("list", kinds.LIMIT_RANGE), "to say before what does not fit"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, the verdict, and what was seen."""

    subject: str
    verdict: Verdict
    text: str


def examine(api: Api, objects: Sequence[Object], demand: Demand | None = None) -> Iterator[Finding]:
    """Yield one finding after the other; changes nothing.

    Args:
        api: Where the run is to be submitted.
        objects: What would be submitted: one RayJob and its config maps.
        demand: What it asks for; default: counted from the RayJob.
    """
    job = next(one for one in objects if one["kind"] == RAYJOB.name)
    demand = of_rayjob(job) if demand is None else demand
    first = _server(api)
    yield first
    if first.verdict == "fail":
        return
    known = list(_kuberay(api, job))
    yield from known
    if any(finding.verdict == "fail" for finding in known):
        return
    yield _operator(api)
    yield from rights(api)
    yield from _namespace(api, job)
    yield from _fits(api, demand)
    yield from _referred(api, job, objects)
    yield from _volumes(api, job)
    yield from _queue(api, job)
    yield _accepted(api, objects)


def _server(api: Api) -> Finding:
    try:
        version = api.read("/version")
    except KubernetesError as error:
        return Finding("Kubernetes", "fail", str(error))
    text = f"{version.get('gitVersion')} at {api.where}, namespace {api.namespace}"
    return Finding("Kubernetes", "ok", text)


def _kuberay(api: Api, job: Object) -> Iterator[Finding]:
    try:
        known = _schema_of(api)
    except KubernetesError as error:
        yield Finding("KubeRay", "warn" if error.status == 403 else "fail", str(error))
        return
    if known is None:
        text = f"is not installed: there is no RayJob of {RAYJOB.version}; {INSTALL}"
        yield Finding("KubeRay", "fail", text)
        return
    missing = list(schema.unknown_fields(job, known))
    if missing:
        text = f"is too old here: its RayJob does not have {', '.join(missing)}; have it upgraded"
        yield Finding("KubeRay", "fail", text)
        return
    yield Finding("KubeRay", "ok", "its RayJob has all fields that are used")


def _schema_of(api: Api) -> Object | None:
    """Return the schema of RayJob: out of its definition, or out of what everybody may read."""
    try:
        crd = api.get(kinds.CRD, f"{RAYJOB.plural}.{RAYJOB.group}")
    except KubernetesError as error:
        if error.status != 403:
            raise
    else:
        return None if crd is None else schema.of_crd(crd, "v1")
    try:
        document = api.read(f"/openapi/v3/apis/{RAYJOB.version}")
    except KubernetesError as error:
        if error.status == 404:
            return None
        raise
    return schema.of_openapi(document, RAYJOB.group, "v1", RAYJOB.name)


def _operator(api: Api) -> Finding:
    try:
        found = api.all(kinds.DEPLOYMENT, labels=OPERATOR, everywhere=True)
    except KubernetesError as error:
        if error.status != 403:
            return Finding("operator", "warn", str(error))
        return _operator_by_its_work(api, "you may not look at other namespaces")
    if not found:
        return _operator_by_its_work(api, f"there is no Deployment with the label {OPERATOR}")
    texts = []
    for one in found:
        meta, ready = one["metadata"], (one.get("status") or {}).get("readyReplicas") or 0
        container = one["spec"]["template"]["spec"]["containers"][0]
        where = f"{meta['name']} in namespace {meta['namespace']} ({container['image']})"
        if not ready:
            return Finding("operator", "fail", f"{where} is not ready; no RayJob would be started")
        watched = _watched(container)
        if watched and api.namespace not in watched:
            texts.append(f"{where} watches {', '.join(watched)} only")
        else:
            return Finding("operator", "ok", f"{where} is ready")
    text = f"{'; '.join(texts)}: not {api.namespace}, where no RayJob would be started"
    return Finding("operator", "fail", text)


def _watched(container: Object) -> list[str]:
    """Return the namespaces that an operator watches; none when it watches all."""
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    for index, word in enumerate(words):
        name, found, value = word.lstrip("-").partition("=")
        if name == "watch-namespace":
            value = value if found else (words[index + 1] if index + 1 < len(words) else "")
            return [one.strip() for one in value.split(",") if one.strip()]
    return []


def _operator_by_its_work(api: Api, why: str) -> Finding:
    """Return whether an operator has ever done something with a RayJob of the namespace."""
    try:
        jobs = api.all(RAYJOB)
    except KubernetesError:
        # What one may not do is said in a finding of its own.
        jobs = []
    if any((job.get("status") or {}).get("jobDeploymentStatus") for job in jobs):
        return Finding("operator", "ok", f"has worked on RayJobs of namespace {api.namespace}")
    text = f"was not seen ({why}); if a run is not taken up, ask whether it is running"
    return Finding("operator", "warn", text)


def rights(api: Api) -> Iterator[Finding]:
    """Yield whether one may do what a run needs; the server is asked once for each right."""
    tables: tuple[tuple[Rights, Verdict], ...] = ((NEEDED, "fail"), (USEFUL, "warn"))
    for table, verdict in tables:
        missing: dict[Right, str] = {}
        for right, use in table:
            try:
                if not api.allowed(right):
                    missing[right] = use
            except KubernetesError as error:
                yield Finding("rights", "warn", str(error))
                return
        if missing:
            yield Finding("rights", verdict, _missing(api.namespace, missing))
        elif verdict == "fail":
            yield Finding("rights", "ok", f"runs may be submitted to namespace {api.namespace}")


def _missing(namespace: str, missing: Mapping[Right, str]) -> str:
    parts = [f"{right.verb} {right.resource} ({use})" for right, use in missing.items()]
    rules: dict[tuple[str, str], list[str]] = {}
    for right in missing:
        rules.setdefault((right.kind.group, right.resource), []).append(right.verb)
    wanted = ", ".join(role_rule('", "'.join(verbs), *of) for of, verbs in rules.items())
    return (
        f"in namespace {namespace} you may not {', '.join(parts)}. Ask for a Role with the rules: "
        f"[{wanted}]"
    )


def _namespace(api: Api, job: Object) -> Iterator[Finding]:
    try:
        found = api.get(kinds.NAMESPACE, api.namespace)
    except KubernetesError as error:
        text = f"{api.namespace}: its Pod Security level cannot be seen ({_short(error)})"
        yield Finding("namespace", "ok" if error.status == 403 else "warn", text)
        return
    if found is None:
        text = f"there is no namespace {api.namespace}; create it, or set targets.kuberay.namespace"
        yield Finding("namespace", "fail", text)
        return
    if found["metadata"].get("deletionTimestamp"):
        yield Finding("namespace", "fail", f"{api.namespace} is being deleted")
        return
    level = (found["metadata"].get("labels") or {}).get(SECURITY_LEVEL, "privileged")
    broken = list(refers.forbidden(job, level))
    if broken:
        text = f"{api.namespace} enforces the Pod Security level {level}, which does not allow "
        yield Finding("namespace", "fail", f"{text}{'; '.join(broken)}")
        return
    yield Finding("namespace", "ok", f"{api.namespace}, Pod Security level {level}")


def _fits(api: Api, demand: Demand) -> Iterator[Finding]:
    ranges = _looked_at(lambda: api.all(kinds.LIMIT_RANGE))
    quotas = _looked_at(lambda: api.all(kinds.QUOTA))
    for what, found in (("limit ranges", ranges), ("quotas", quotas)):
        if isinstance(found, KubernetesError):
            yield Finding("quota", "warn", f"{what} cannot be seen: {_short(found)}")
    known = ranges if isinstance(ranges, list) else []
    demand = room.with_defaults(demand, known)
    for fit in room.within_ranges(demand, known):
        yield Finding("limit range", fit.verdict, fit.text)
    if not isinstance(quotas, list):
        return
    seen = [one for quota in quotas if (one := room.within_quota(demand, quota)) is not None]
    yield from (Finding("quota", one.verdict, one.text) for one in seen)
    if not seen:
        yield Finding("quota", "ok", f"namespace {api.namespace} has none for pods")


def _looked_at(look: Callable[[], list[Any]]) -> list[Any] | KubernetesError:
    try:
        return look()
    except KubernetesError as error:
        return error


def _referred(api: Api, job: Object, objects: Sequence[Object]) -> Iterator[Finding]:
    brought = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for one in refers.references(job):
        if (one.kind.name, one.name) in brought or one.kind is kinds.VOLUME_CLAIM:
            continue
        subject = f"{one.kind.name} {one.name}"
        try:
            there = api.metadata(one.kind, one.name) is not None
        except KubernetesError as error:
            yield Finding(subject, "warn", f"cannot be looked for: {_short(error)}")
            continue
        where = f" in namespace {api.namespace}" if one.kind.namespaced else ""
        text = "is there" if there else f"is not there{where}; it is the {one.use}. Create it"
        yield Finding(subject, "ok" if there else "fail", text)


def _volumes(api: Api, job: Object) -> Iterator[Finding]:
    for name, users in refers.volumes_in_common(job).items():
        subject = f"PersistentVolumeClaim {name}"
        try:
            claim = api.get(kinds.VOLUME_CLAIM, name)
        except KubernetesError as error:
            yield Finding(subject, "warn", f"cannot be looked at: {_short(error)}")
            continue
        yield _volume(subject, claim, users)


def _volume(subject: str, claim: Object | None, users: Sequence[str]) -> Finding:
    if claim is None:
        text = "is not there; create it with accessModes: [ReadWriteMany], or set targets.kuberay"
        return Finding(subject, "fail", f"{text}.pvc")
    modes = claim["spec"].get("accessModes") or []
    phase = (claim.get("status") or {}).get("phase", "Pending")
    if phase == "Lost":
        return Finding(subject, "fail", "has lost its volume")
    if "ReadWriteMany" not in modes:
        text = (
            f"is {', '.join(modes)}, and {' and '.join(users)} use it at once on several nodes; it "
            "has to be ReadWriteMany (NFS, CephFS, EFS, Filestore), or use storage: s3://..."
        )
        return Finding(subject, "fail", text)
    if phase == "Pending":
        return Finding(subject, "warn", "has no volume yet; it may get one with the first pod")
    return Finding(subject, "ok", "is there and ReadWriteMany")


def _queue(api: Api, job: Object) -> Iterator[Finding]:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE)
    if not queue:
        return
    subject = f"LocalQueue {queue}"
    try:
        kind = api.preferred(KUEUE, "LocalQueue")
        found = None if kind is None else api.get(kind, queue)
    except KubernetesError as error:
        yield Finding(subject, "warn", f"cannot be looked for: {_short(error)}")
        return
    if kind is None:
        text = "Kueue is not installed, and nothing else lets the run begin; remove queue"
        yield Finding(subject, "fail", text)
    elif found is None:
        text = f"is not there in namespace {api.namespace}; look: kubectl get localqueues"
        yield Finding(subject, "fail", text)
    else:
        yield _queue_state(subject, found)


def _queue_state(subject: str, found: Object) -> Finding:
    status = found.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Active" and condition.get("status") == "False":
            return Finding(subject, "fail", f"is closed: {condition.get('message')}")
    waiting = status.get("pendingWorkloads") or 0
    ahead = f", {waiting} workloads wait in it" if waiting else ""
    return Finding(subject, "ok", f"is open{ahead}")


def _accepted(api: Api, objects: Sequence[Object]) -> Finding:
    """Return whether the server would take the objects."""
    for one in objects:
        try:
            api.apply({**one}, dry_run=True, force=True)
        except KubernetesError as error:
            return Finding("dry run", "fail", str(error))
    return Finding("dry run", "ok", "the API server takes the objects as they are")


def _short(error: KubernetesError) -> str:
    return str(error).partition(": ")[2] or str(error)
