"""A real Slurm for the tests of this folder, which are skipped where there can be none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.lab import Lab, claim, missing

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark these tests, and skip them where no Slurm can be started."""
    ours = [item for item in items if _HERE in item.path.parents]
    reason = missing() if ours else None
    for item in ours:
        item.add_marker(pytest.mark.slurm)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"no Slurm here: {reason}"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Return a Slurm of three nodes; each test finds it as new."""
    with Lab(3, claim()) as made:
        yield made


@pytest.fixture(autouse=True)
def restored(request: pytest.FixtureRequest) -> Iterator[None]:
    """Undo what the test did to the session's Slurm."""
    used = "lab" in request.fixturenames
    made = request.getfixturevalue("lab") if used else None
    yield
    if made is not None:
        made.restore()


@pytest.fixture
def folder(lab: Lab, request: pytest.FixtureRequest) -> Path:
    """Return a new folder that all machines see, for one test."""
    path: Path = lab.shared / request.node.name
    path.mkdir()
    return path
