"""One Ray for all tests of this folder, in its own folder and on its own ports."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from raytune_hpo.cluster.local import LocalRay


@pytest.fixture(scope="session")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Connect this process to a Ray of its own and return its address for other processes."""
    connection = LocalRay()
    # As in an activated environment: "python" in a command is this Python. Workers have Ray's PATH.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connection.connect(tmp_path_factory.mktemp("ray") / "driver.log")
        import ray

        yield ray.get_runtime_context().gcs_address
        connection.close()


@pytest.fixture
def driver_environment(ray_address: str) -> dict[str, str]:
    """Return the environment for a driver process that uses the tests' Ray."""
    return {**os.environ, "RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "token"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
