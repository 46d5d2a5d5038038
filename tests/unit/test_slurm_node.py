"""What a node of a Slurm job decides, without Ray: share, ports, address, leftovers."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raytune_hpo.cluster import guard
from raytune_hpo.errors import InfrastructureError
from raytune_hpo.lock import started
from raytune_hpo.slurm import node, ports
from raytune_hpo.slurm.address import own_address
from raytune_hpo.slurm.share import Share

MIB = 2**20


@pytest.mark.parametrize(
    ("environ", "share"),
    [
        (
            {"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_NODE": "8000"},
            Share(4, 0, 8000 * MIB),
        ),
        (
            {"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "500"},
            Share(4, 0, 2000 * MIB),
        ),
        (
            {
                "SLURM_CPUS_ON_NODE": "2",
                "SLURM_GPUS_ON_NODE": "2",
                "CUDA_VISIBLE_DEVICES": "0,1",
            },
            Share(2, 2, None),
        ),
        # Ray refuses to start with more than it can see.
        (
            {"SLURM_CPUS_ON_NODE": "2", "SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0"},
            Share(2, 1, None),
        ),
        # A whole node's memory is written as 0.
        ({"SLURM_CPUS_ON_NODE": "2", "SLURM_MEM_PER_NODE": "0"}, Share(2, 0, None)),
    ],
)
def test_the_share_is_what_slurm_gave(environ: dict[str, str], share: Share) -> None:
    assert Share.of(environ) == share


def test_trials_get_the_memory_that_ray_leaves() -> None:
    share = Share(4, 0, 8000 * MIB)
    assert share.object_store == 800 * MIB
    assert share.for_trials == (8000 - 800 - 500) * MIB
    assert Share(1, 0, 400 * MIB).for_trials == 100 * MIB


def test_blocks_of_ports_are_apart_and_below_those_of_outgoing_connections() -> None:
    blocks = [ports.Block(ports.FIRST + index * ports.SIZE) for index in range(ports.COUNT)]
    ends = [block.first + ports.SIZE for block in blocks]
    assert all(end <= after.first for end, after in zip(ends, blocks[1:], strict=False))
    assert ends[-1] <= 32768


def test_each_daemon_has_a_port_of_its_own_before_those_of_the_workers() -> None:
    block = ports.Block(ports.FIRST)
    used = [block.gcs, *block.fixed().values()]
    first = int(block.arguments()[-2].partition("=")[2])
    assert len(set(used)) == len(used)
    assert block.first <= min(used) <= max(used) < first


def test_a_block_with_a_port_in_use_is_passed_over() -> None:
    free = ports.free_block(5, "127.0.0.1")
    with socket.create_server(("127.0.0.1", free.fixed()["node-manager-port"])):
        assert ports.free_block(5, "127.0.0.1").first == free.first + ports.SIZE


def test_a_node_with_many_cpus_has_ports_for_all_its_workers() -> None:
    block = ports.free_block(99, "127.0.0.1", cpus=256)
    first, last = (int(word.partition("=")[2]) for word in block.arguments()[-2:])
    assert last - first >= 2 * 256
    assert block.first >= ports.FIRST
    assert last < ports.FIRST + ports.COUNT * ports.SIZE
    assert (block.first - ports.FIRST) % ports.SIZE == 0


def test_a_large_block_is_none_in_which_another_ray_has_begun() -> None:
    free = ports.free_block(5, "127.0.0.1", cpus=256)
    inside = ports.Block(free.first + ports.SIZE)
    with socket.create_server(("127.0.0.1", inside.gcs)):
        found = ports.free_block(5, "127.0.0.1", cpus=256)
    assert found.first > inside.first


def test_a_node_that_does_not_see_the_run_says_so(tmp_path: Path) -> None:
    probe = tmp_path / ".seen-7"
    with pytest.raises(InfrastructureError, match=r"does not see .*seen-7.*all nodes share"):
        node.check_shared(probe, within_s=0.3)
    threading.Timer(0.3, probe.touch).start()
    node.check_shared(probe, within_s=10.0)


def test_the_address_towards_a_peer_is_the_one_that_it_would_see() -> None:
    assert own_address(None, "127.0.0.1") == "127.0.0.1"


def test_an_interface_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(InfrastructureError, match=r"ib7.*interfaces.*lo"):
        own_address("ib7", None)
    assert own_address("lo", None) == "127.0.0.1"


def test_a_name_that_only_means_the_loopback_is_refused_unless_the_node_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert own_address(None, None, alone=True) == "127.0.0.1"
    with pytest.raises(InfrastructureError, match=r"targets\.slurm\.interface"):
        own_address(None, None)


def test_leftovers_of_killed_jobs_are_ended_and_removed(tmp_path: Path) -> None:
    dead, used = tmp_path / "rts-1-0", tmp_path / "rts-2-0"
    for folder in (dead, used):
        folder.mkdir()
        (folder / "in-use").touch()
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    left = subprocess.Popen(words, env={**os.environ, guard.MARK: str(dead)})
    other = subprocess.Popen(words, env={**os.environ, guard.MARK: str(used)})
    with (used / "in-use").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(0.2)
        try:
            node.sweep(tmp_path)
            assert left.wait(5) == -9
            assert not dead.exists()
            assert used.exists()
            assert other.poll() is None
        finally:
            for process in (left, other):
                process.kill()
                process.wait()


def test_what_a_node_needs_to_know_keeps_its_token_out_of_messages() -> None:
    spec = node.Spec(name="rts-1", token="c0ffee", seed=1)
    assert "c0ffee" not in repr(spec)
    assert '"token": "c0ffee"' in spec.to_line()


def test_the_head_ends_with_its_driver() -> None:
    driver = subprocess.Popen(["sleep", "60"])
    try:
        lives = node.DriverLives(driver.pid, started(driver.pid))
        assert lives.wanted()
    finally:
        driver.kill()
        driver.wait()
    assert not lives.wanted()
    # One that cannot be seen from here says nothing.
    assert node.DriverLives(driver.pid, 1).wanted()


def test_names_of_worker_jobs() -> None:
    assert node.task_name({"SLURM_JOB_ID": "15"}) == "15"
    array = {"SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    assert node.task_name(array) == "12_3"
