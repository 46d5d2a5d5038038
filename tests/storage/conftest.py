"""One S3 server for all tests of this folder, a bucket for each, and a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raytune_hpo.storage import objects, place, presence
from tests.storage.s3 import Server


@pytest.fixture(scope="session")
def one_server() -> Iterator[Server]:
    """Return the server of the session."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def s3(one_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Return a server in good order, which this process knows how to reach."""
    for name, value in one_server.environment().items():
        monkeypatch.setenv(name, value)
    one_server.start()
    yield one_server
    one_server.calm()
    one_server.start()


@pytest.fixture
def bucket(s3: Server) -> str:
    """Return the URL of an empty bucket."""
    return f"s3://{s3.new_bucket()}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for copies, of this test only; what takes seconds takes less."""
    monkeypatch.setenv(place.CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.setenv(objects.PATIENCE_ENV, "20")
    monkeypatch.setattr(presence, "BEAT_S", 0.2)
    monkeypatch.setattr(presence, "LEASE_S", 1.0)
    return tmp_path / "cache"
