"""The built-in experiment of ``raytune-hpo chaos``, and its strikes on real processes."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo.chaos import digits, katib, katib_figure
from raytune_hpo.chaos.plan import Every, Fault, FaultKind, Strike
from raytune_hpo.chaos.strike import Faults, Worker, is_worker
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment

CONFIG = {"units": 16, "dropout": 0.2, "lr": 0.01, "optimizer": "adam"}
PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(digits.EPOCH_S_ENV, "0")


def epochs(last: int, start: Path | None, save: Path) -> list[dict[str, Any]]:
    """Train up to an epoch."""
    os.environ[digits.EPOCHS_ENV] = str(last)
    try:
        return list(digits.epochs(CONFIG, start, save))
    finally:
        del os.environ[digits.EPOCHS_ENV]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_network_learns(tmp_path: Path, optimizer: str) -> None:
    found = list(digits.epochs({**CONFIG, "optimizer": optimizer}, None, tmp_path / digits.FILE))
    assert [metrics["epoch"] for metrics in found] == list(range(1, 9))
    assert found[-1]["entropy"] < 0.6 * found[0]["entropy"]


def test_going_on_from_a_checkpoint_changes_nothing(tmp_path: Path) -> None:
    whole = epochs(6, None, tmp_path / digits.FILE)
    (tmp_path / "half").mkdir()
    first = epochs(3, None, tmp_path / "half" / digits.FILE)
    assert first + epochs(6, tmp_path / "half", tmp_path / "other.bin") == whole


def test_it_is_a_valid_experiment() -> None:
    experiment = Experiment.from_json(digits.experiment("digits"))
    assert set(experiment.search_space.parameters) == set(CONFIG)


# Strikes


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that is named as a worker of Ray's is."""
    code = "import time; time.sleep(60)"
    with subprocess.Popen(["ray::Test", "-c", code], executable=sys.executable) as made:
        while not Path(f"/proc/{made.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        yield made
        made.kill()


def worker(process: subprocess.Popen[bytes], **changes: Any) -> Worker:
    """Return a process as the worker of trial 5."""
    fields = {"node": socket.gethostname(), "pid": process.pid, "began_t": time.time()}
    return Worker(5, 1, **{**fields, **changes})


def strike(kind: FaultKind, for_s: float = 5.0) -> Strike:
    """Return a strike on trial 5."""
    return Strike(Fault(kind, Every(1), share=1.0, for_s=for_s), (5,))


def state(process: subprocess.Popen[bytes], wanted: str) -> bool:
    """Return whether a process gets into a state."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] in wanted:
            return True
        time.sleep(0.02)
    return False


def test_only_the_worker_itself_is_hit(process: subprocess.Popen[bytes]) -> None:
    assert is_worker(worker(process))
    assert not is_worker(worker(process, node="elsewhere"))
    assert not is_worker(worker(process, pid=None))
    # The number of a process that ended may have been given to a newer one.
    assert not is_worker(worker(process, began_t=time.time() - 3600))
    assert not is_worker(worker(process, pid=os.getpid()))
    assert not is_worker(worker(process, pid=2**22))


def test_kill(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert Faults(tmp_path).hit(strike(FaultKind.KILL), {5: worker(process)}, 0.0) == [5]
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert Faults(tmp_path).hit(strike(FaultKind.KILL), {5: worker(process)}, 0.0) == []


def test_slow_lasts_for_its_time(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    assert faults.hit(strike(FaultKind.SLOW, 4.0), {5: worker(process)}, 100.0) == [5]
    assert state(process, "T")
    faults.end_due(103.9)
    assert state(process, "T")
    faults.end_due(104.0)
    assert state(process, "SR")


def test_what_hangs_is_let_go_at_the_end(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    assert faults.hit(strike(FaultKind.HANG), {5: worker(process)}, 100.0) == [5]
    faults.end_due(1e9)
    assert state(process, "T")
    faults.end()
    assert state(process, "SR")


def test_disk_full_is_an_order_to_the_journal(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    now_s = time.monotonic()
    fault = Fault(FaultKind.DISK_FULL, Every(1), for_s=0.2)
    assert faults.hit(Strike(fault), {}, now_s) == []
    faults.end_due(now_s + 1e9)
    assert (tmp_path / "chaos/orders/disk-full").exists()
    faults.free_disk()
    assert not (tmp_path / "chaos/orders/disk-full").exists()
    assert time.monotonic() - now_s >= 0.2


def test_an_mlflow_outage_locks_the_store(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (id INTEGER)")
    connection.close()
    faults = Faults(tmp_path, f"sqlite:///{path}")
    fault = Fault(FaultKind.MLFLOW_OUTAGE, Every(1), for_s=5.0)
    faults.hit(Strike(fault), {}, 100.0)
    connection = sqlite3.connect(path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        connection.execute("SELECT * FROM runs")
    faults.end_due(105.0)
    assert connection.execute("SELECT * FROM runs").fetchall() == []
    connection.close()


def test_an_outage_of_another_store_is_refused(tmp_path: Path) -> None:
    fault = Fault(FaultKind.MLFLOW_OUTAGE, Every(1))
    with pytest.raises(SpecError, match="SQLite"):
        Faults(tmp_path, "http://127.0.0.1:5000").hit(Strike(fault), {}, 0.0)


# The figure


def part(system: str, kind: str, share: float, failed: int) -> dict[str, Any]:
    """Return a curve of 40 trials of which the last ones failed."""
    good = [{"failed": False, "value": 2.0 / (n + 1)} for n in range(40 - failed)]
    curve = [*good, *([{"failed": True, "value": None}] * failed)]
    return {
        **{"system": system, "kind": kind, "share": share, "trials": 40, "seed": 1},
        **{"curve": curve, "strikes": [[10, 2], [20, failed]], "wall_s": 60.0},
    }


def parts() -> list[dict[str, Any]]:
    """Return a part for each curve."""
    made = [part(s.system, s.kind, s.share, 3) for s in katib.settings(40, 1)]
    assert len(made) == 11
    return made


def test_failures_and_best_value_over_finished_trials() -> None:
    curve: list[tuple[bool, float | None]] = [
        (True, None),
        (False, 3.0),
        (True, None),
        (False, 5.0),
        (False, 1.0),
    ]
    one: dict[str, Any] = {"curve": [{"failed": failed, "value": value} for failed, value in curve]}
    assert katib_figure.failed(one) == [0, 1, 1, 2, 2, 2]
    assert katib_figure.best(one) == [(2, 3.0), (3, 3.0), (4, 3.0), (5, 1.0)]


def test_the_table_has_a_line_a_curve() -> None:
    lines = katib_figure.table(parts())
    assert len(lines) == 12
    assert len({len(line) for line in lines}) == 1


def test_the_scale_is_said() -> None:
    assert "9.6 finished trials (about 14 s) for failures" in katib.scale(parts())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_figure_is_drawn(tmp_path: Path) -> None:
    made = katib_figure.draw(parts(), katib.scale(parts()), tmp_path)
    assert [path.suffix for path in made] == [".svg", ".png"]
    svg = made[0].read_text()
    assert svg.startswith("<?xml")
    assert made[1].read_bytes().startswith(b"\x89PNG")


def test_every_curve_has_a_name_of_its_own() -> None:
    found = katib.settings(150, 0)
    assert len({setting.name for setting in found}) == len(found)
    assert [s.fault.every.amount for s in found][::10] == [13, 36]
