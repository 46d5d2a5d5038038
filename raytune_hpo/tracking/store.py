"""An MLflow store: few calls, and two kinds of failure.

The only module that imports MLflow. A call that failed may have had its effect all the same: all
but ``create`` have the same effect when made twice.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raytune_hpo.redact import redact
from raytune_hpo.tracking.base import Refused, Unreachable
from raytune_hpo.tracking.settings import Settings

_log = logging.getLogger("raytune_hpo.tracking")

KEY_TAG = "raytune.trial_key"
STATE_TAG = "raytune.state"
ORIGIN_TAG = "raytune.origin"
FORKED_TAG = "raytune.parent_trial"
PARENT_KEY = "parent"

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow would repeat a request whose answer was lost, and so make a run twice.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
_PERMANENT = frozenset(
    {
        "ALREADY_EXISTS",
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "NOT_IMPLEMENTED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
    }
)
_NO_MLFLOW = "API request to endpoint"
"""How MLflow's client begins when an answer is not in the form of MLflow's server."""
_TRANSIENT_HTTP = frozenset({401, 403, 408, 429})
_PAGE = 500
REQUEST_TIMEOUT_S = 10.0
"""How long a server may be silent before a request counts as failed."""

Point = tuple[str, float, int, int]
"""A metric's name, value, time in ms and step."""


@dataclass(frozen=True)
class Known:
    """A run that is in the store.

    Attributes:
        key: A trial's number as text, or ``parent``.
        deleted: It is in the store's waste bin.
        spare: It was made ahead, and no trial has used it.
    """

    key: str
    run_id: str
    status: str
    deleted: bool
    spare: bool


@contextlib.contextmanager
def environment(request_timeout_s: float = REQUEST_TIMEOUT_S) -> Iterator[None]:
    """Set what MLflow reads from the environment, for a process that tracks.

    Args:
        request_timeout_s: How long a server may be silent before a request counts as failed; MLflow
            takes whole seconds.
    """
    wanted = {**_ENVIRONMENT, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, round(request_timeout_s)))}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Store:
    """One experiment of an MLflow store.

    Args:
        settings: Where it is; nothing is done there before ``open``.
        heard: Told how many seconds each call took, also one that failed; from the thread of the
            call.

    Attributes:
        experiment_id: Of MLflow; empty before ``open``.
    """

    def __init__(
        self, settings: Settings, heard: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self.settings = settings
        self.experiment_id = ""
        self._heard = heard
        self._client: Any = None
        self._store: Any = None

    def open(self) -> None:
        """Connect, and make the experiment if it is not there.

        Raises:
            Unreachable: The store does not answer, or the experiment was deleted there.
        """
        try:
            with self._failures():
                from mlflow import MlflowClient

                self._client = MlflowClient(tracking_uri=self.settings.uri)
                # MlflowClient.update_run reads the whole run before it sets a status.
                self._store = self._client._tracking_client.store
            with self._call():
                self.experiment_id = self._experiment()
        except Refused as error:
            raise Unreachable(str(error)) from error

    def _experiment(self) -> str:
        name = self.settings.experiment
        found = self._client.get_experiment_by_name(name)
        if found is None:
            root = self.settings.artifacts
            place = None if root is None else str(root / re.sub(r"[^\w-]", "_", name)[:100])
            with contextlib.suppress(Refused), self._failures():
                return self._id(self._client.create_experiment(name, artifact_location=place))
            found = self._client.get_experiment_by_name(name)  # made by another in the meantime
        if found is None or found.lifecycle_stage != "active":
            raise Unreachable(
                f"the MLflow experiment '{name}' was deleted at {self.settings.shown}: restore it "
                "there, or name another one as mlflow.experiment"
            )
        return self._id(found.experiment_id)

    def _id(self, given: object) -> str:
        """Return an id that the store gave; what is no MLflow server may give an empty one."""
        if not given:
            raise Unreachable(f"MLflow at {self.settings.shown}: its answer makes no sense")
        return str(given)

    def ping(self) -> None:
        """Return if the store answers."""
        with self._call():
            self._client.get_experiment(self.experiment_id)

    def label(self, key: str, value: str) -> None:
        """Set a tag of the experiment."""
        with self._call():
            self._client.set_experiment_tag(self.experiment_id, key, value)

    def runs(self, run_uuid: str) -> Iterator[Known]:
        """Yield the runs that belong to a journal, the deleted ones too."""
        from mlflow.entities import ViewType

        token = None
        while True:
            with self._call():
                page = self._client.search_runs(
                    [self.experiment_id],
                    f"tags.`{KEY_TAG}` LIKE '{run_uuid}/%'",
                    run_view_type=ViewType.ALL,
                    max_results=_PAGE,
                    page_token=token,
                )
            yield from map(_known, page)
            token = page.token
            if not token:
                return

    def create(self, name: str, tags: Mapping[str, str], start_ms: int) -> str:
        """Make a run, which is RUNNING at first, and return its id.

        Raises:
            Unreachable: It may be there or not: look with ``runs`` before the next try.
        """
        try:
            with self._call():
                run = self._client.create_run(
                    self.experiment_id, start_time=start_ms, tags=dict(tags), run_name=name
                )
                return self._id(run.info.run_id)
        except Refused as error:
            raise Unreachable(str(error)) from error

    def log(
        self,
        run_id: str,
        points: Sequence[Point],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Add metrics, params and tags; the client cuts them into batches that are taken."""
        from mlflow.entities import Metric, Param, RunTag

        with self._call():
            self._client.log_batch(
                run_id,
                [Metric(*point) for point in points],
                [Param(key, value) for key, value in params.items()],
                [RunTag(key, value) for key, value in tags.items()],
            )

    def set_status(self, run_id: str, status: str, end_ms: int | None) -> None:
        """Set the status of a run, and when it ended."""
        from mlflow.entities import RunStatus

        with self._call():
            self._store.update_run_info(run_id, RunStatus.from_string(status), end_ms, None)

    def add_text(self, run_id: str, name: str, content: str) -> None:
        """Add a text file to the artifacts of a run; one of that name is replaced."""
        # Artifact stores raise errors of their own libraries; metrics do not wait for those.
        with self._call(Refused):
            self._client.log_text(run_id, content, name)

    def delete(self, run_id: str) -> None:
        """Delete a run."""
        with self._call():
            self._client.delete_run(run_id)

    @contextlib.contextmanager
    def _call(self, other: type[Exception] = Unreachable) -> Iterator[None]:
        """Tell how long it took, and turn what MLflow raises into this module's failures."""
        began_s = time.monotonic()
        try:
            with self._failures(other):
                yield
        finally:
            self._heard(time.monotonic() - began_s)

    @contextlib.contextmanager
    def _failures(self, other: type[Exception] = Unreachable) -> Iterator[None]:
        """Turn what MLflow raises into ``Unreachable`` or ``Refused``.

        Args:
            other: What to make of errors of other libraries, such as of an answer that cannot be
                read.
        """
        from mlflow.exceptions import MlflowException
        from requests.exceptions import HTTPError, RequestException

        try:
            yield
        except (Unreachable, Refused):
            raise
        except MlflowException as error:
            self._raise(Refused if _permanent(error) else Unreachable, error)
        except HTTPError as error:
            code = 0 if error.response is None else error.response.status_code
            refused = 400 <= code < 500 and code not in _TRANSIENT_HTTP
            self._raise(Refused if refused else Unreachable, error)
        except RequestException as error:
            self._raise(Unreachable, error)
        except Exception as error:
            _log.debug("not an error of MLflow's", exc_info=True)
            self._raise(other, error)

    def _raise(self, kind: Callable[[str], Exception], error: Exception) -> None:
        raise kind(f"MLflow at {self.settings.shown}: {_reason(error)}") from error


def _permanent(error: Any) -> bool:
    """Return whether MLflow itself has said no; a gateway before it may be only in its way."""
    from mlflow.exceptions import RestException

    of_gateway = not isinstance(error, RestException) and str(error).startswith(_NO_MLFLOW)
    return error.error_code in _PERMANENT and not of_gateway


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words."""
    said = " ".join(str(error).split()) or type(error).__name__
    if "DNS rebinding" in said:
        return "it refuses this host name; start it with: mlflow server --allowed-hosts NAME"
    known = re.search(
        r"Connection refused|Connection reset|Name or service not known|[Tt]imed out"
        r"|Remote end closed connection|database is locked|disk is full"
        r"|attempt to write a readonly database|unable to open database file",
        said,
    )
    return known.group() if known else redact(said)[:300]


def _known(run: Any) -> Known:
    tags = run.data.tags
    return Known(
        key=tags[KEY_TAG].rpartition("/")[2],
        run_id=run.info.run_id,
        status=run.info.status,
        deleted=run.info.lifecycle_stage != "active",
        spare=ORIGIN_TAG not in tags and not tags[KEY_TAG].endswith(f"/{PARENT_KEY}"),
    )
