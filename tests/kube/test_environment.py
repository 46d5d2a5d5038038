"""The tests' own nodes: environments of containers, and names of services."""

from __future__ import annotations

import asyncio
import doctest
from typing import Any

import pytest

from tests.kube import objects
from tests.kube.api import Json
from tests.kube.node import environment, hosts
from tests.kube.node.environment import ConfigError

ADDRESSES = {"status.podIP": "10.0.0.2", "status.hostIP": "10.0.0.1"}
CAPACITY = {"cpu": "4", "memory": "8Gi"}


def resolved(**container: Any) -> dict[str, str]:
    """Return the environment of a container in a namespace without config maps and secrets."""

    async def nothing(resource: str, name: str) -> Json | None:
        return None

    pod = objects.pod("one", "true", labels={"app": "web"}, **container)
    main = pod["spec"]["containers"][0]
    work = environment.resolve(main, pod, {"HOME": "/"}, nothing, ADDRESSES, CAPACITY)
    return asyncio.run(work)


def variable(**source: Json) -> list[Json]:
    return [{"name": "A", "valueFrom": source}]


def test_the_examples() -> None:
    assert doctest.testmod(environment).failed == 0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "one"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['none']", ""),
        ("status.podIP", "10.0.0.2"),
        ("status.podIPs", "10.0.0.2"),
        ("status.hostIP", "10.0.0.1"),
        ("spec.restartPolicy", "Never"),
    ],
)
def test_a_field_of_the_pod(path: str, value: str) -> None:
    assert resolved(env=variable(fieldRef={"fieldPath": path}))["A"] == value


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ({"resource": "limits.cpu"}, "2"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "requests.memory", "divisor": "1Mi"}, "512"),
        ({"resource": "limits.memory", "divisor": "1Gi"}, "8"),  # there is none: the node's
    ],
)
def test_a_resource_of_the_container(reference: Json, value: str) -> None:
    resources = {"limits": {"cpu": "1500m"}, "requests": {"memory": "512Mi"}}

    found = resolved(resources=resources, env=variable(resourceFieldRef=reference))

    assert found["A"] == value


def test_what_is_not_there_is_an_error_unless_it_is_optional() -> None:
    reference = {"name": "absent", "key": "key"}

    with pytest.raises(ConfigError, match='secret "absent" not found'):
        resolved(env=variable(secretKeyRef=reference))
    optional = resolved(env=variable(secretKeyRef={**reference, "optional": True}))
    assert optional == {"HOME": "/"}


def test_later_variables_use_earlier_ones() -> None:
    env = [{"name": "A", "value": "$(HOME)/a"}, {"name": "B", "value": "$(A)/b $(C)"}]

    assert resolved(env=env)["B"] == "//a/b $(C)"


def test_names_lead_to_services_and_their_pods() -> None:
    pod = objects.pod("me", "true")
    pod["metadata"]["namespace"] = "mine"
    services = []
    for name, space, address in (("web", "mine", "10.0.1.1"), ("direct", "other", "None")):
        service = objects.service(name, {}, 80, 80)
        service["metadata"]["namespace"] = space
        service["spec"]["clusterIP"] = address
        services.append(service)
    labels = {"kubernetes.io/service-name": "direct"}
    points = [
        {"addresses": ["10.0.0.3"], "conditions": {"ready": True}, "hostname": "zero"},
        {"addresses": ["10.0.0.4"], "conditions": {"ready": False}},
    ]
    part = {"metadata": {"namespace": "other", "labels": labels}, "endpoints": points}

    lines = hosts.of_pod(pod, "10.0.0.2", services, [part]).splitlines()

    assert lines == [
        "127.0.0.1 localhost",
        "10.0.0.2 me",
        "10.0.1.1 web.mine.svc.cluster.local web.mine.svc web.mine web",
        "10.0.0.3 zero.direct.other.svc.cluster.local "
        "direct.other.svc.cluster.local direct.other.svc direct.other",
    ]
