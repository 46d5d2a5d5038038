"""Errors of talking to the API server, with what to do next."""

from __future__ import annotations

import json
from typing import Any

from raytune_hpo.cluster.kuberay import denials
from raytune_hpo.errors import InfrastructureError

_LATER = frozenset({429, 500, 502, 503, 504})
_MOST = 600
"""Characters of an answer that is not understood."""
_NO_KIND = ("could not find the requested resource", "404 page not found")
INSTALL = (
    "have KubeRay installed: helm install kuberay-operator kuberay/kuberay-operator "
    "(https://docs.ray.io/en/latest/cluster/kubernetes/getting-started.html)"
)


class KubernetesError(InfrastructureError):
    """The API server refused something, or could not be reached.

    Attributes:
        status: HTTP status, or None when there was no whole answer.
        reason: The server's word for it, such as AlreadyExists; empty when there is none.
        wait_s: So long the server wants to be left alone, in seconds; 0 when it does not say.
        of_kind: Whether the server knows no such kind of object at all.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        reason: str = "",
        wait_s: float = 0.0,
        of_kind: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.wait_s = wait_s
        self.of_kind = of_kind

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed a little later."""
        return self.status is None or self.status in _LATER


def of_answer(
    status: int, body: bytes, what: str, retry_after: str | None = None
) -> KubernetesError:
    """Return the error for an answer that is not a success.

    Args:
        status: HTTP status.
        body: A Status object, or whatever a proxy in between has sent.
        what: What was asked, such as ``create rayjobs digits in namespace team-a``.
        retry_after: The header of that name.
    """
    said = _status_object(body)
    message = str(said.get("message", "")) or _first_line(body)
    reason = str(said.get("reason", ""))
    wait_s = float(retry_after) if retry_after and retry_after.isdecimal() else 0.0
    text = _text(status, reason, message, _causes(said))
    return KubernetesError(
        f"{what}: {text}",
        status=status,
        reason=reason,
        wait_s=wait_s,
        of_kind=status == 404 and _of_kind(message),
    )


def of_status(said: dict[str, Any], what: str) -> KubernetesError:
    """Return the error for a Status object that came within a stream."""
    return of_answer(int(said.get("code", 500)), json.dumps(said).encode(), what)


def _text(status: int, reason: str, message: str, causes: list[str]) -> str:
    if status == 401:
        return (
            "the API server does not know you (HTTP 401): the token or certificate is missing, "
            "wrong or has expired. Log in again; kubectl auth whoami shows who you are"
        )
    if status == 404 and _of_kind(message):
        return f"the cluster does not know this kind of object; if it is a RayJob, {INSTALL}"
    if status == 400 and "strict decoding error" in message:
        fields = message.partition("strict decoding error:")[2].strip()
        return (
            f"the cluster does not know what stands there: {fields}. Its KubeRay may be too old; "
            "raytune-hpo doctor --on kuberay says which fields are missing"
        )
    if causes:
        return f"the API server does not take it: {'; '.join(causes)}"
    if status in _LATER:
        return f"the API server cannot answer now (HTTP {status}): {message}. Try again later"
    denial = denials.read(message)
    if denial is None:
        return message or f"HTTP {status} {reason}".rstrip()
    return denial.text


def _of_kind(message: str) -> bool:
    return any(text in message for text in _NO_KIND)


def _causes(said: dict[str, Any]) -> list[str]:
    """Return the server's own errors of fields, as ``path: what is wrong``."""
    if said.get("reason") != "Invalid":
        return []
    causes = (said.get("details") or {}).get("causes") or []
    found = [(c.get("field") or "", " ".join((c.get("message") or "").split())) for c in causes]
    # With an unknown field the server gives the same cause once for each version.
    return list(dict.fromkeys(f"{field}: {text}" if field else text for field, text in found))


def _status_object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _first_line(body: bytes) -> str:
    lines = body[:_MOST].decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else ""
