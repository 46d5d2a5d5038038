"""Where the results of a run go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_hpo.journal import Record
from raytune_hpo.redact import redact

_SQLITE = "sqlite:///"
_HOSTED = ("databricks", "uc")


@dataclass(frozen=True)
class Settings:
    """The store and what the run is called there.

    Attributes:
        uri: Address of the store, with absolute paths; may hold a password.
        experiment: Name of the MLflow experiment.
        tags: Further tags of the parent run.
    """

    uri: str
    experiment: str
    tags: Mapping[str, str]

    @property
    def shown(self) -> str:
        """The address without its password."""
        return redact(self.uri)

    @property
    def remote(self) -> bool:
        """Whether it is a server, which takes several requests at the same time."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def artifacts(self) -> Path | None:
        """Where a store that is a file keeps its artifacts; None lets the server choose."""
        if not self.uri.startswith(_SQLITE):
            return None
        return Path(self.uri.removeprefix(_SQLITE).partition("?")[0]).parent / "mlruns"


def of_header(header: Record, uri: str | None = None, experiment: str | None = None) -> Settings:
    """Return the settings of a run.

    Args:
        header: The journal's ``experiment`` record.
        uri: Another store; relative paths start at the working directory.
        experiment: Another experiment.
    """
    section: dict[str, Any] = header["spec"].get("mlflow") or {}
    folder = Path(header.get("folder") or ".")
    working = Path(header.get("cwd") or folder)
    if uri is None and section.get("uri"):
        address = _absolute(section["uri"], folder)
    else:
        given = uri or os.environ.get("MLFLOW_TRACKING_URI")
        address = _absolute(given, Path()) if given else _absolute(f"{_SQLITE}mlflow.db", working)
    return Settings(
        uri=address,
        experiment=experiment or section.get("experiment") or str(header["name"]),
        tags=dict(section.get("tags") or {}),
    )


def _absolute(uri: str, folder: Path) -> str:
    """Return an address with the path of a local store made absolute."""
    if uri.startswith(_SQLITE):
        path, mark, options = uri.removeprefix(_SQLITE).partition("?")
        return f"{_SQLITE}{(folder / path).absolute()}{mark}{options}"
    if ":" in uri or uri in _HOSTED:
        return uri
    return str((folder / uri).absolute())
