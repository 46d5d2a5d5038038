"""The tests' own Slurm: its machines, its faults, and that nothing of it stays."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm import accounting
from tests.slurm.lab import BASE, Lab, claim, release
from tests.slurm.machine import wait_until

WAITS = """#!/bin/bash
#SBATCH --requeue --open-mode=append
echo start $SLURM_RESTART_COUNT
sleep 300
"""


def reaches(lab: Lab, node: str) -> bool:
    """Say whether slurmd of a node can be reached from the login node."""
    address = f"/dev/tcp/{lab.layout.addresses[node]}/{lab.layout.port + 1}"
    words = ["timeout", "2", "bash", "-c", f": >{address}"]
    return lab.run_on("login", *words, check=False).returncode == 0


def sleeps(lab: Lab, node: str) -> bool:
    """Say whether the job that waits runs on a node."""
    return any("sleep" in process.words for process in lab.processes(node))


def processes_of(lab: Lab) -> list[str]:
    """Return the command lines on this host in which the lab's folder is named."""
    lines = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True)
    return [line for line in lines.stdout.splitlines() if str(lab.folder) in line]


def check_all_is_gone(lab: Lab) -> None:
    assert not processes_of(lab)
    assert not lab.folder.exists()
    assert not list(Path("/sys/class/net").glob(f"{lab.layout.bridge}*"))


def test_a_job_runs_on_machines_with_their_own_names_addresses_and_files(lab: Lab) -> None:
    script = "hostname; ip -4 -brief address show eth0 | cut -d' ' -f1-; touch /tmp/$(hostname)"
    done = lab.run_on("login", "srun", "-N3", "bash", "-c", script)

    assert set(lab.nodes) < set(done.stdout.split())
    for index, node in enumerate(lab.nodes, 1):
        assert f"10.77.{lab.layout.number}.{index}/24" in done.stdout
        assert lab.files(node) == [f"/tmp/{node}"]
    assert not Path("/tmp", lab.nodes[0]).exists()


def test_a_job_gets_gpus(lab: Lab) -> None:
    words = ["srun", "-N1", "--gpus-per-node=2", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES"]

    assert lab.run_on("login", *words).stdout.strip() == "0,1"


def test_a_job_of_another_partition_takes_the_nodes_of_low(lab: Lab) -> None:
    low = lab.submit(WAITS, "-N3", "--exclusive", "-p", "low")
    lab.wait(low, "RUNNING")
    main = lab.submit(WAITS, "-N3", "--exclusive", "-p", "main")

    lab.wait(main, "RUNNING")

    lab.wait(low, "PENDING")
    assert lab.show(low)["Restarts"] == "1"


def test_a_requeued_job_runs_again_without_the_two_minutes(lab: Lab, folder: Path) -> None:
    job = lab.submit(WAITS, folder=folder)
    lab.wait(job, "RUNNING")

    lab.requeue_now(job)

    output = folder / f"slurm-{job}.out"
    wait_until(lambda: "start 1" in output.read_text(), "the second start says nothing")


def test_a_killed_node_is_gone_and_comes_back(lab: Lab) -> None:
    node = lab.nodes[1]
    job = lab.submit(WAITS, "-w", node)
    lab.wait(job, "RUNNING")
    wait_until(lambda: sleeps(lab, node), "the job does not begin")
    lab.run_on(node, "touch", "/tmp/left")

    lab.kill_node(node)

    assert not lab.processes(node)
    assert not reaches(lab, node)
    assert lab.files(node) == ["/tmp/left"]
    lab.revive_node(node)
    wait_until(lambda: reaches(lab, node), "slurmd does not come back")
    assert not lab.processes(node)


def test_slurm_sees_that_slurmd_was_killed(lab: Lab) -> None:
    node = lab.nodes[2]
    job = lab.submit(WAITS, "-w", node)
    wait_until(lambda: sleeps(lab, node), "the job does not begin")

    lab.kill_slurmd(node)

    lab.wait(job, "PENDING", timeout_s=90)  # requeued, as the node is down
    assert lab.node_state(node).startswith("down")
    assert sleeps(lab, node)


def test_what_a_job_leaves_behind_is_seen_and_removed(lab: Lab) -> None:
    node = lab.nodes[0]
    script = "#!/bin/bash\nsetsid sleep 1234 & touch /tmp/left /dev/shm/left; sleep 1\n"
    job = lab.submit(script, "-w", node)
    lab.wait(job, "COMPLETED")
    orphan = [*lab.machines[node].command(["setsid", "-f", "sleep", "1235"], Path("/"))]
    subprocess.run(orphan, check=True)

    def seen() -> bool:
        return ("sleep", "1235") in [process.words for process in lab.processes(node)]

    wait_until(seen, "what is left is not seen")
    assert lab.files(node) == ["/dev/shm/left", "/tmp/left"]
    lab.restore()
    assert not lab.processes(node)
    assert not lab.files(node)


def test_an_error_of_a_wait_says_what_slurm_knows(lab: Lab) -> None:
    job = lab.submit("#!/bin/sh\necho words of the job\n")
    lab.wait(job, "COMPLETED")

    with pytest.raises(TimeoutError, match=r"(?s)COMPLETED.*words of the job"):
        lab.wait(job, "RUNNING", timeout_s=0.5)


def test_the_controller_keeps_its_jobs_when_it_is_killed(lab: Lab) -> None:
    job = lab.submit(WAITS)
    lab.wait(job, "RUNNING")
    time.sleep(6)  # slurmctld saves its state within 5 s of a change

    lab.kill_node("control")
    lab.revive_node("control")

    lab.wait(job, "RUNNING")


def test_two_labs_beside_each_other_and_nothing_is_left_of_one(lab: Lab) -> None:
    with Lab(1, claim(), settings={"JobRequeue": "0"}) as other:
        job = other.submit("#!/bin/sh\nsleep 300\n")
        other.wait(job, "RUNNING")

        assert other.nodes[0] not in lab.nodes
        assert processes_of(other)
        assert other.show(job)["Requeue"] == "0"
        assert not lab.command("squeue", "-h")

    check_all_is_gone(other)
    assert lab.run_on("login", "srun", "-N3", "hostname").stdout


def test_the_command_line() -> None:
    lab = Lab(1, claim())

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "tests.slurm.lab", f"--number={lab.layout.number}"]
        return subprocess.run([*program, *words], capture_output=True, text=True)

    try:
        assert call("run", "hostname").returncode == 1
        assert f"SLURM_CONF={lab.folder}" in call("up", "1").stdout
        init = lab.machines[lab.nodes[0]].init
        assert call("up", "1").returncode == 0
        assert lab.machines[lab.nodes[0]].init == init
        assert call("run", "srun", "hostname").stdout.split() == list(lab.nodes)
        assert call("run", "sh", "-c", "exit 7").returncode == 7
    finally:
        call("down")
    check_all_is_gone(lab)
    assert call("down").returncode == 0


def test_a_lab_of_a_killed_process_is_removed_by_the_next() -> None:
    program = (
        "import os\nfrom tests.slurm.lab import Lab, claim\nnumber = claim()\n"
        "Lab(1, number).up()\nprint(number)\nos.kill(os.getpid(), 9)\n"
    )
    words = [sys.executable, "-u", "-c", program]
    number = int(subprocess.run(words, capture_output=True, text=True).stdout)
    assert processes_of(Lab(1, number))

    assert claim() == number

    check_all_is_gone(Lab(1, number))
    release(number)
    assert not (BASE / f"{number}.owner").exists()


@pytest.mark.skipif(
    not all(shutil.which(program) for program in accounting.PROGRAMS),
    reason=f"no slurmdbd: apt-get install {' '.join(accounting.PACKAGES)}",
)
def test_accounts_and_qos() -> None:
    with Lab(1, claim(), accounting=True) as lab:
        job = lab.submit("#!/bin/sh\n", "--account=lab", "--qos=high")
        lab.wait(job, "COMPLETED")
        wait_until(lambda: job in lab.command("sacct", "-n", "-o", "JobID"), "sacct has no job")
        with pytest.raises(RuntimeError, match="Invalid account"):
            lab.submit("#!/bin/sh\n", "--account=other")

        lab.kill_node("control")
        lab.revive_node("control")

        lab.wait(lab.submit("#!/bin/sh\n", "--qos=debug", "--time=1"), "COMPLETED")
    check_all_is_gone(lab)
