"""TensorBoard files made from a journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_hpo.tracking.tensorboard import TensorboardTracker
from tests.mlflow.made import MadeRun


def events(folder: Path) -> list[object]:
    from tensorboardX.proto.event_pb2 import Event  # type: ignore[import-untyped, unused-ignore]

    found: list[object] = []
    for path in sorted(folder.rglob("events.out.*")):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            found += [(v.tag, v.simple_value, event.step) for v in event.summary.value]
            data = data[16 + length :]
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_metrics_and_hyperparameters(run: MadeRun, tmp_path: Path) -> None:
    run.header()
    run.session()
    run.trial(0)
    run.start(0)
    run.report(0, 1, [0.5], loss=0.5, note="text")
    run.report(0, 2, [0.25], loss=0.25)
    run.end(0, "completed", values=[0.25])
    for _ in range(2):
        tracker = TensorboardTracker(tmp_path / "tb")
        tracker.apply(run.records())
        tracker.end()
        tracker.close()
    found = events(tmp_path / "tb" / "0000")
    assert ("loss", 0.5, 1) in found
    assert found.count(("loss", 0.25, 2)) >= 1
    assert any("hparams" in str(event) for event in found)
    assert len([e for e in found if e == ("loss", 0.5, 1)]) == 1
