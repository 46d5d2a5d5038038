"""The /etc/hosts of pods, which stands for a cluster's DNS: names of services and their pods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.kube.api import Json

_DOMAIN = "svc.cluster.local"


def of_pod(pod: Json, address: str, services: Iterable[Json], slices: Iterable[Json]) -> str:
    """Return the text of the file.

    Args:
        pod: Whose file it is.
        address: Of the pod.
        services: All of the cluster.
        slices: All endpoint slices.
    """
    namespace, spec = pod["metadata"]["namespace"], pod["spec"]
    name = spec.get("hostname") or pod["metadata"]["name"]
    full = f"{name}.{spec['subdomain']}.{namespace}.{_DOMAIN} " if spec.get("subdomain") else ""
    lines = ["127.0.0.1 localhost", f"{address} {full}{name[:63]}"]
    lines += [f"{one['ip']} {' '.join(one['hostnames'])}" for one in spec.get("hostAliases", [])]
    parts: dict[tuple[str, str], list[Json]] = {}
    for part in slices:
        owner = part["metadata"].get("labels", {}).get("kubernetes.io/service-name", "")
        parts.setdefault((part["metadata"]["namespace"], owner), []).append(part)
    for service in services:
        own = parts.get((service["metadata"]["namespace"], service["metadata"]["name"]), [])
        lines += _of_service(service, own, namespace)
    return "\n".join(lines) + "\n"


def _of_service(service: Json, slices: Iterable[Json], namespace: str) -> Iterator[str]:
    name, space = service["metadata"]["name"], service["metadata"]["namespace"]
    names = [f"{name}.{space}.{_DOMAIN}", f"{name}.{space}.svc", f"{name}.{space}"]
    if space == namespace:
        names.append(name)
    own = service["spec"].get("clusterIP")
    if own and own != "None":
        yield f"{own} {' '.join(names)}"
        return
    for endpoint in (one for part in slices for one in part.get("endpoints") or []):
        if endpoint.get("conditions", {}).get("ready", True):
            for address in endpoint["addresses"]:
                own_name = endpoint.get("hostname")
                first = f"{own_name}.{name}.{space}.{_DOMAIN} " if own_name else ""
                yield f"{address} {first}{' '.join(names)}"
