"""What all tests have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more about the machine than about the code.
settings.register_profile(
    "untimed", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
)
settings.load_profile("untimed")


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Path]:
    """Return a file that a driver can wait for; at the end it is there in any case."""
    file = tmp_path / "go"
    yield file
    file.touch()
