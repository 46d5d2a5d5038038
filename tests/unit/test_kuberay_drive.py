"""How long the command of a RayJob takes, and its exit code."""

from __future__ import annotations

import time
from pathlib import Path

from raytune_hpo.cluster.kuberay import drive


def test_the_exit_code_of_the_driver_is_passed_on(tmp_path: Path) -> None:
    assert drive.main(["--help"], least_s=0.0) == 0
    assert drive.main(["run", str(tmp_path / "absent.yaml")], least_s=0.0) == 2


def test_a_driver_that_ends_at_once_is_waited_with() -> None:
    began_s = time.monotonic()
    drive.main(["--version"], least_s=1.5)
    assert time.monotonic() - began_s >= 1.5
