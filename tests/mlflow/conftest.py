"""A real MLflow store on SQLite for each test, copied from one that is set up once."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mlflow.made import MadeRun, View

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let MLflow use what its own dependencies call deprecated."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from raytune_hpo.tracking.settings import Settings
    from raytune_hpo.tracking.store import Store, environment

    path = tmp_path_factory.mktemp("store") / "empty.db"
    with environment():
        Store(Settings(f"sqlite:///{path}", "Default", {})).open()
    return path


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(empty_store) as source:
        source.execute("PRAGMA wal_checkpoint")
    source.close()
    shutil.copy(empty_store, path)
    return path


@pytest.fixture
def run(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeRun]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = MadeRun(tmp_path)
    yield made
    made.close()


@pytest.fixture
def view(database: Path) -> View:
    return View(f"sqlite:///{database}", "tiny")
