"""An MLflow store: few calls, and two kinds of failure.

The only module that imports MLflow. A call that failed may have had its effect all the same: all
but ``create`` have the same effect when made twice.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raytune_hpo.redact import redact
from raytune_hpo.tracking.base import Refused, Unreachable
from raytune_hpo.tracking.settings import Settings

KEY_TAG = "raytune.trial_key"
STATE_TAG = "raytune.state"
ORIGIN_TAG = "raytune.origin"
PARENT_KEY = "parent"

_ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
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
_TRANSIENT_HTTP = frozenset({401, 403, 408, 429})
_PAGE = 500

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
def environment() -> Iterator[None]:
    """Set what MLflow reads from the environment, for a process that tracks."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
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

    Attributes:
        experiment_id: Of MLflow; empty before ``open``.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.experiment_id = ""
        self._client: Any = None
        self._store: Any = None

    def open(self) -> None:
        """Connect, and make the experiment if it is not there.

        Raises:
            Unreachable: The store does not answer, or the experiment was deleted there.
        """
        with self._failures(Unreachable):
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.settings.uri)
            # MlflowClient.update_run reads the whole run before it sets a status.
            self._store = self._client._tracking_client.store
            try:
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
                return str(self._client.create_experiment(name, artifact_location=place))
            found = self._client.get_experiment_by_name(name)  # made by another in the meantime
        if found is None or found.lifecycle_stage != "active":
            raise Unreachable(
                f"the MLflow experiment '{name}' was deleted at {self.settings.shown}: restore it "
                "there, or name another one as mlflow.experiment"
            )
        return str(found.experiment_id)

    def ping(self) -> None:
        """Return if the store answers."""
        with self._failures():
            self._client.get_experiment(self.experiment_id)

    def label(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment."""
        with self._failures():
            for key, value in tags.items():
                self._client.set_experiment_tag(self.experiment_id, key, value)

    def runs(self, run_uuid: str) -> Iterator[Known]:
        """Yield the runs that belong to a journal, the deleted ones too."""
        from mlflow.entities import ViewType

        token = None
        while True:
            with self._failures():
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
            with self._failures():
                run = self._client.create_run(
                    self.experiment_id, start_time=start_ms, tags=dict(tags), run_name=name
                )
                return str(run.info.run_id)
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

        with self._failures():
            self._client.log_batch(
                run_id,
                [Metric(*point) for point in points],
                [Param(key, value) for key, value in params.items()],
                [RunTag(key, value) for key, value in tags.items()],
            )

    def set_status(self, run_id: str, status: str, end_ms: int | None) -> None:
        """Set the status of a run, and when it ended."""
        from mlflow.entities import RunStatus

        with self._failures():
            self._store.update_run_info(run_id, RunStatus.from_string(status), end_ms, None)

    def add_text(self, run_id: str, name: str, content: str) -> None:
        """Add a text file to the artifacts of a run; one of that name is replaced."""
        # Artifact stores raise errors of their own libraries; metrics do not wait for those.
        with self._failures(Refused):
            self._client.log_text(run_id, content, name)

    def delete(self, run_id: str) -> None:
        """Delete a run."""
        with self._failures():
            self._client.delete_run(run_id)

    @contextlib.contextmanager
    def _failures(self, other: type[Exception] | None = None) -> Iterator[None]:
        """Turn what MLflow raises into ``Unreachable`` or ``Refused``.

        Args:
            other: What to make of errors of other libraries; they pass if absent.
        """
        from mlflow.exceptions import MlflowException
        from requests.exceptions import HTTPError, RequestException

        try:
            yield
        except (Unreachable, Refused):
            raise
        except MlflowException as error:
            self._raise(Refused if error.error_code in _PERMANENT else Unreachable, error)
        except HTTPError as error:
            code = 0 if error.response is None else error.response.status_code
            refused = 400 <= code < 500 and code not in _TRANSIENT_HTTP
            self._raise(Refused if refused else Unreachable, error)
        except RequestException as error:
            self._raise(Unreachable, error)
        except Exception as error:
            if other is None:
                raise
            self._raise(other, error)

    def _raise(self, kind: Callable[[str], Exception], error: Exception) -> None:
        raise kind(f"MLflow at {self.settings.shown}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words."""
    said = " ".join(str(error).split())
    if "DNS rebinding" in said:
        return "it refuses this host name; start it with: mlflow server --allowed-hosts NAME"
    known = re.search(
        r"Connection refused|Connection reset|Name or service not known|[Tt]imed out"
        r"|Remote end closed connection|database is locked|disk is full",
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
