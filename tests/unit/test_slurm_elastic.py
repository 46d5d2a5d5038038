"""When worker jobs are submitted and given back."""

from __future__ import annotations

import pytest

from raytune_hpo.slurm.elastic import Change, Worker, change, task_of
from raytune_hpo.slurm.node import resource_of

RUNNING = Worker("12_0", waiting=False)
WAITING = Worker("12_1", waiting=True)
IDLE = Worker("12_2", waiting=False, idle_s=70.0)
JUST_IDLE = Worker("12_3", waiting=False, idle_s=10.0)


@pytest.mark.parametrize(
    ("workers", "wanting", "expected"),
    [
        ([], True, Change(submit=4)),
        ([RUNNING, WAITING], True, Change(submit=2)),
        ([RUNNING, WAITING, IDLE, JUST_IDLE], True, Change()),
        # One too many, as after a change of parallel: none more.
        ([RUNNING] * 5, True, Change()),
        ([], False, Change()),
        ([RUNNING, WAITING, IDLE, JUST_IDLE], False, Change(cancel=("12_1", "12_2"))),
        ([RUNNING], False, Change()),
    ],
)
def test_what_is_done(workers: list[Worker], wanting: bool, expected: Change) -> None:
    assert change(workers, wanting=wanting, most=4, idle_s=60.0) == expected


def test_a_node_tells_its_worker_job_by_a_resource() -> None:
    assert task_of({"CPU": 2.0, resource_of("12_3"): 1.0}) == "12_3"
    assert task_of({"CPU": 2.0, "node:10.0.0.1": 1.0}) is None
