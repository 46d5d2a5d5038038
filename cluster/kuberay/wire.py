"""Requests to the API server, and its answers: time limits, tries, and errors in plain words.

The official client is asked for addresses, certificates and tokens; requests go through its pool
of connections.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import urllib3

from raytune_hpo.cluster.kuberay.refused import KubernetesError, of_answer

Object = dict[str, Any]

FIELD_MANAGER = "raytune-hpo"
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0
JSON = "application/json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_TRIES = 3
_SHOWN = 200
_RETRY_WAIT_S = 0.5
_WAIT_MOST_S = 20.0


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        path: Address on the server.
        what: What it asks for, as the beginning of a message.
        method: HTTP method.
        query: Parameters; those without a value are left out.
        body: Object to send.
        sort: Content type of the body.
        accept: Content type of the answer.
        silence_s: So long the server may say nothing, in seconds.
    """

    path: str
    what: str
    method: str = "GET"
    query: Mapping[str, str] = field(default_factory=dict)
    body: Object | None = None
    sort: str = JSON
    accept: str = JSON
    silence_s: float = ANSWER_TIMEOUT_S


class Wire:
    """A way to an API server.

    Args:
        configuration: Of the official client.
        pool: Its pool of connections.
        where: What to call the server in messages.
    """

    def __init__(self, configuration: Any, pool: Any, where: str) -> None:
        self._configuration = configuration
        self._pool = pool
        self._where = where

    def json(self, request: Request) -> Object:
        """Send a request and return the object that comes back.

        Raises:
            KubernetesError: There is no answer, or it is no success.
        """
        text = self._whole(self.open(request), request.what)
        try:
            answer: Object = json.loads(text)
        except ValueError as error:
            raise KubernetesError(
                f"{request.what}: {self._where} does not answer as an API server does: "
                f"{text[:_SHOWN]!r}. Is its address right? Look at: kubectl config view"
            ) from error
        return answer

    def open(self, request: Request) -> Any:
        """Send a request and return the answer, of which only the head has been read.

        Reading is tried again; what changes something only when the server has not begun with it.

        Raises:
            KubernetesError: There is no answer, or it is no success.
        """
        tries = 0
        while True:
            try:
                return self._once(request)
            except KubernetesError as error:
                tries += 1
                again = error.status == 429 or (request.method == "GET" and error.passing)
                if tries == _TRIES or not again:
                    raise
                wait_s = max(error.wait_s, _RETRY_WAIT_S * 2 ** (tries - 1))
                time.sleep(min(wait_s, _WAIT_MOST_S))

    def lines(self, answer: Any, what: str) -> Iterator[bytes]:
        """Yield an answer that goes on, line by line; a last one without an end has no newline.

        Raises:
            KubernetesError: It broke off; only whole lines were yielded then.
        """
        rest = b""
        try:
            for piece in answer.stream(None):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line + b"\n"
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error, what) from error
        finally:
            # What has not been read must not reach the next request.
            answer.close()
        if rest:
            yield rest

    def _once(self, request: Request) -> Any:
        words = urlencode({name: value for name, value in request.query.items() if value})
        headers = {"Accept": request.accept, "User-Agent": FIELD_MANAGER, **self._credentials()}
        if request.body is not None:
            headers["Content-Type"] = request.sort
        try:
            answer = self._pool.request(
                request.method,
                f"{self._configuration.host}{request.path}{'?' if words else ''}{words}",
                body=None if request.body is None else json.dumps(request.body).encode(),
                headers=headers,
                preload_content=False,
                retries=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=request.silence_s),
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error, request.what) from error
        if 200 <= answer.status < 300:
            return answer
        said = self._whole(answer, request.what)
        raise of_answer(answer.status, said, request.what, answer.headers.get("Retry-After"))

    def _credentials(self) -> dict[str, str]:
        """Return the header that says who asks; a token that has expired is fetched anew."""
        settings = self._configuration.auth_settings().values()
        return {one["key"]: one["value"] for one in settings if one["value"]}

    def _whole(self, answer: Any, what: str) -> bytes:
        try:
            read: bytes = answer.read()
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error, what) from error
        finally:
            answer.release_conn()
        return read

    def _unreachable(self, error: Exception, what: str) -> KubernetesError:
        return KubernetesError(f"{what}: {_why(error, self._where)}")


def _why(error: Exception, where: str) -> str:
    """Return why there is no answer, in plain words, with what to do."""
    problems = urllib3.exceptions
    text = " ".join(str(error).split())
    if isinstance(error, problems.NameResolutionError):
        return f"the address of {where} is not known here; is this machine in its network (VPN)?"
    if isinstance(error, problems.SSLError):
        return (
            f"the connection to {where} is not trusted: {text}. "
            "Look at certificate-authority and client-certificate in your kubeconfig"
        )
    if isinstance(error, (problems.ConnectTimeoutError, problems.NewConnectionError)):
        return (
            f"{where} does not answer: {text.rpartition(': ')[2]}. Is the cluster up, and is this "
            "machine in its network (VPN)? Try: kubectl cluster-info"
        )
    if isinstance(error, problems.ReadTimeoutError):
        return f"{where} was silent for too long; try again"
    return f"the connection to {where} broke: {text}; try again"
