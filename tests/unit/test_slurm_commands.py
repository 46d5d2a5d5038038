"""Slurm's commands with answers as recorded from Slurm 22.05.8, and what is said of them."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from raytune_hpo.slurm import commands, follow, queue
from raytune_hpo.slurm.commands import ControllerAwayError, Job, SlurmError
from raytune_hpo.slurm.state import State, chain, write_state

SEPARATOR = "\x1f"
QUEUE = [
    "2_2|PENDING|JobArrayTaskLimit||N/A|N/A",
    "3|PENDING|Dependency||N/A|N/A",
    "1|RUNNING|None|n1|1795439353|1795439953",
    "2_0|RUNNING|None|n2|1795439353|1795441153",
]
CANCELLED = (
    "JobId=1 JobName=t.sh UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901759 "
    "Nice=0 Account=(null) QOS=(null) JobState=CANCELLED Reason=BeginTime Dependency=(null) "
    "Requeue=1 Restarts=1 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:00 "
    "TimeLimit=00:10:00 TimeMin=N/A SubmitTime=1795439353 EligibleTime=1795439476 "
    "StartTime=1795439356 EndTime=1795439356 Deadline=N/A Partition=main NodeList= "
    "NumNodes=1-1 Command=/home/me/a b.sh WorkDir=/home/me/my folder "
    "StdErr=/home/me/my folder/1.out StdIn=/dev/null StdOut=/home/me/my folder/1.out Power="
)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder for commands of Slurm on PATH and return it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def answer(folder: Path, name: str, text: str = "", *, error: str = "", code: int = 0) -> None:
    """Write a command that notes how it was called, and answers."""
    (folder / f"{name}.answer").write_text(text)
    file = folder / name
    file.write_text(
        f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\nenv > {folder}/{name}.env\n'
        f"cat {folder}/{name}.answer\necho '{error}' >&2\nexit {code}\n"
    )
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def queued(folder: Path, *lines: str) -> None:
    text = "".join(line.replace("|", SEPARATOR) + "\n" for line in lines)
    answer(folder, "squeue", text)


def test_all_jobs_are_looked_up_by_one_command(slurm: Path) -> None:
    queued(slurm, *QUEUE)
    found = commands.lookup("1", "2", "3")
    assert len(calls(slurm)) == 1
    assert list(found) == ["2_2", "3", "1", "2_0"]
    assert found["1"] == Job(
        "1", None, "RUNNING", "", "n1", start_t=1795439353.0, end_t=1795439953.0
    )
    assert found["2_2"] == Job("2_2", 2, "PENDING", "JobArrayTaskLimit")


def test_a_job_that_has_left_the_queue_is_asked_of_the_controller(slurm: Path) -> None:
    answer(slurm, "squeue", error="slurm_load_jobs error: Invalid job id specified", code=1)
    answer(slurm, "scontrol", CANCELLED + "\n")
    job = commands.lookup("1")["1"]
    assert (job.state, job.restarts, job.exit_code) == ("CANCELLED", 1, "0:0")
    assert job.stdout == Path("/home/me/my folder/1.out")


def test_the_accounting_comes_last_and_need_not_be_there(slurm: Path) -> None:
    gone = "Invalid job id specified"
    answer(slurm, "squeue", error=f"slurm_load_jobs error: {gone}", code=1)
    answer(slurm, "scontrol", error=f"slurm_load_jobs error: {gone}", code=1)
    answer(slurm, "sacct", error="Slurm accounting storage is disabled", code=1)
    assert commands.lookup("1") == {}
    answer(slurm, "sacct", "1|TIMEOUT|n1|1795439353|1795439953|0:0\n")
    assert commands.lookup("1")["1"].state == "TIMEOUT"
    (slurm / "sacct").unlink()
    assert commands.lookup("1") == {}


def test_a_controller_that_is_away_is_an_error_and_not_a_job_that_is_gone(slurm: Path) -> None:
    said = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    answer(slurm, "squeue", error=said, code=1)
    with pytest.raises(SlurmError, match="Unable to contact"):
        commands.lookup("1")


AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"


def test_a_controller_that_is_away_for_a_moment_is_asked_again(
    slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_FIRST_PAUSE_S", 0.05)
    answer(slurm, "scontrol", error=AWAY, code=1)
    there = slurm / "scontrol.there"
    text = (slurm / "scontrol").read_text()
    fails_once = f"[ -e {there} ] && exit 0\n: >{there}\ncat"
    (slurm / "scontrol").write_text(text.replace("cat", fails_once, 1))
    commands.patiently(lambda: commands.requeue("1"), within_s=60.0)
    assert len(calls(slurm)) == 2


def test_a_controller_that_stays_away_is_given_up(slurm: Path) -> None:
    answer(slurm, "scontrol", error=AWAY, code=1)
    with pytest.raises(ControllerAwayError, match="Unable to contact"):
        commands.patiently(lambda: commands.requeue("1"), within_s=1.0)
    assert len(calls(slurm)) == 1


def test_what_slurm_refuses_is_not_asked_again(slurm: Path) -> None:
    answer(slurm, "scontrol", error="Requested operation is presently disabled for job 1", code=1)
    with pytest.raises(SlurmError, match="presently disabled"):
        commands.patiently(lambda: commands.requeue("1"), within_s=60.0)
    assert len(calls(slurm)) == 1


def test_the_output_of_a_following_job_is_named_by_its_number_only(
    slurm: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "user7" / "results"
    (folder / "slurm").mkdir(parents=True)
    answer(slurm, "sbatch", "8\n")
    chain(folder, State("7", 0, output=f"{folder}/slurm-7.out"))
    assert f"--output={folder}/slurm-%j.out" in calls(slurm)[0]
    assert "--dependency=afterany:7" in calls(slurm)[0]


def test_a_missing_command_says_where_to_go(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(slurm))
    with pytest.raises(SlurmError, match="login node"):
        commands.requeue("1")


def test_a_job_submitted_from_a_job_gets_nothing_of_it(
    slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2000")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("RAYTUNE_HPO_ELASTIC", "1")
    monkeypatch.setenv("SBATCH_ACCOUNT", "physics")
    answer(slurm, "sbatch", "4711;cluster\n")
    assert commands.sbatch(Path("/x/job.sh"), "--array=0-3") == "4711"
    environ = (slurm / "sbatch.env").read_text()
    assert "SLURM_CONF=/etc/slurm.conf" in environ
    assert "SBATCH_ACCOUNT=physics" in environ
    assert not any(name in environ for name in ("SLURM_MEM", "RAY_AUTH", "RAYTUNE_HPO"))
    assert calls(slurm) == ["sbatch --parsable --array=0-3 /x/job.sh"]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("Resources", "it is next"),
        ("Priority", "ahead in the queue"),
        ("(BeginTime)", "two minutes"),
        ("PartitionTimeLimit", "lower targets.slurm.time"),
        ("JobHeldUser", "scontrol release 7"),
        ("QOSMaxWallDurationPerJobLimit", "lower targets.slurm.time"),
        ("AssocGrpCpuLimit", "CPUs of your group"),
        ("QOSMaxGRESPerUser", "more GPUs"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "down, drained or reserved"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_reasons_in_plain_words(reason: str, text: str) -> None:
    said = queue.explain(Job("7", None, "PENDING", reason), now_t=0.0)
    assert said.startswith("waits in the queue: ")
    assert text in said


def test_what_is_said_of_other_states() -> None:
    running = Job("7", None, "RUNNING", nodes="n[1-3]", end_t=700.0)
    assert queue.explain(running, now_t=100.0) == "runs on n[1-3], 10 min before its limit"
    waiting = Job("7", None, "PENDING", "Resources", start_t=7300.0)
    assert queue.explain(waiting, now_t=0.0).endswith("expected to begin in 2.0 h")
    failed = Job("7", None, "FAILED", "NonZeroExitCode", exit_code="3:0")
    assert "(exit code 3)" in queue.explain(failed)
    # Slurm leaves the reason why the job had waited.
    assert queue.explain(Job("7", None, "CANCELLED", "Resources")) == "was cancelled"


def carried(run_dir: Path, **fields: object) -> None:
    """Write what a job of a run leaves."""
    (run_dir / "slurm").mkdir(parents=True, exist_ok=True)
    write_state(run_dir, State(**{"job": "1", "restart": 0, **fields}))  # type: ignore[arg-type]


def test_a_run_that_never_was_on_slurm_asks_nothing(slurm: Path, tmp_path: Path) -> None:
    assert list(follow.status(tmp_path, finished=False)) == []
    assert follow.take_back(tmp_path) is None
    assert not (slurm / "calls").exists()


def test_status_of_a_running_job_and_its_workers(slurm: Path, tmp_path: Path) -> None:
    carried(tmp_path)
    follow.write_arrays(tmp_path / "slurm", ["2"])
    queued(slurm, *QUEUE)
    lines = list(follow.status(tmp_path, finished=False))
    assert lines[0].startswith("Slurm job 1 runs on n1")
    assert lines[1] == "worker jobs: 1 running, 1 in the queue"
    assert len(lines) == 2
    assert len(calls(slurm)) == 1


def test_status_of_a_job_that_ended_early_says_how_to_go_on(slurm: Path, tmp_path: Path) -> None:
    carried(tmp_path, state="terminated", message="Slurm ended the job")
    queued(slurm, "1|CANCELLED|None|n1|1795439353|1795439953")
    lines = list(follow.status(tmp_path, finished=False))
    assert lines[0] == "Slurm job 1 was cancelled; it said: Slurm ended the job"
    assert "raytune-hpo resume" in lines[1]


def test_status_follows_a_chain_and_a_new_submission(slurm: Path, tmp_path: Path) -> None:
    carried(tmp_path, state="chained", next_job="3")
    queued(slurm, *QUEUE)
    assert "Slurm job 3 waits" in next(follow.status(tmp_path, finished=False))
    submitted = {"job": "2_0", "t": time.time() + 1}
    (tmp_path / "slurm" / "submitted.json").write_text(json.dumps(submitted))
    assert "Slurm job 2_0 runs" in next(follow.status(tmp_path, finished=False))


def test_status_without_a_controller_says_what_the_job_wrote(slurm: Path, tmp_path: Path) -> None:
    carried(tmp_path, state="running")
    answer(slurm, "squeue", error="Unable to contact slurm controller", code=1)
    (line,) = follow.status(tmp_path, finished=False)
    assert "Unable to contact" in line
    assert "it last wrote: running" in line


def test_only_a_waiting_job_is_taken_back(slurm: Path, tmp_path: Path) -> None:
    carried(tmp_path)
    queued(slurm, *QUEUE)
    answer(slurm, "scancel")
    assert follow.take_back(tmp_path) is None
    carried(tmp_path, job="3")
    assert follow.take_back(tmp_path) == "3"
    assert calls(slurm)[-1] == "scancel 3"


def test_outputs_are_those_of_the_jobs_oldest_first(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    folder.mkdir()
    names = ("9.out", "10.out", "worker-3_0.out", "1-n1.log")
    for age, name in zip((300, 200, 100, 50), names, strict=True):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age, time.time() - age))
    assert [path.name for path in follow.outputs(tmp_path)] == ["9.out", "10.out"]
