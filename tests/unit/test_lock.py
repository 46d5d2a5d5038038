"""One driver at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raytune_hpo import lock
from raytune_hpo.errors import RunLockedError


def test_a_second_holder_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    held = lock.RunLock(tmp_path)
    with pytest.raises(RunLockedError, match=f"process {os.getpid()} on "):
        lock.RunLock(tmp_path)
    held.release()
    lock.RunLock(tmp_path).release()


def test_holder_is_known_while_held_only(tmp_path: Path) -> None:
    assert lock.holder(tmp_path) is None
    held = lock.RunLock(tmp_path)
    who = lock.holder(tmp_path)
    assert who is not None
    assert who["pid"] == os.getpid()
    held.release()
    assert lock.holder(tmp_path) is None


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from raytune_hpo.lock import RunLock;"
        "RunLock(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    lock.RunLock(tmp_path).release()
