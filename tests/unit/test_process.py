"""Commands as processes: all ends with them, and what is told of them is of this attempt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo.attempt import Assignment, Event, begin
from raytune_hpo.collect import MetricOptions
from raytune_hpo.process import explain_exit
from raytune_hpo.trial import FailureKind
from tests.unit.test_command import execute, execute_past_limit, gone, job, reports


def again(tmp_path: Path, run: Any, attempt: int = 2, **more: Any) -> list[Event]:
    running = begin(job(tmp_path, run, **more), Assignment(3, attempt, {"x": 1}))
    events: list[Event] = []
    while not events or not events[-1].is_end:
        events += running.events(5.0)
    return events


def pids(tmp_path: Path, *names: str) -> list[int]:
    return [int((tmp_path / name).read_text()) for name in names]


OWN_GROUPS = (
    "timeout 60 sh -c 'echo $$ > a; exec sleep 60' & "
    "bash -mc 'sleep 60 & echo $! > b; wait' & "
    "while [ ! -s a ] || [ ! -s b ]; do sleep 0.02; done; echo loss=1; "
)


def test_process_groups_of_its_own_end_with_the_command(tmp_path: Path) -> None:
    assert execute(tmp_path, OWN_GROUPS)[-1].failure is None
    assert all(gone(pid) for pid in pids(tmp_path, "a", "b"))


@pytest.mark.parametrize("then", ["sleep 60", "trap '' TERM; kill 0; exec sleep 60"])
def test_process_groups_of_its_own_end_with_a_killed_worker(tmp_path: Path, then: str) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.unit.test_command import job
from raytune_hpo.attempt import Assignment, begin
attempt = begin(job(Path(sys.argv[1]), sys.argv[2]), Assignment(0, 1, {{"x": 1}}))
attempt.events(10.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = f"echo $$ > main; {OWN_GROUPS}{then}"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), run], check=False)
    assert done.returncode == -signal.SIGKILL
    assert all(gone(pid, within_s=2.0) for pid in pids(tmp_path, "a", "b", "main"))


def test_the_watcher_ends_with_the_command(tmp_path: Path) -> None:
    execute(tmp_path, "echo $$ > main; echo loss=1")
    (session,) = pids(tmp_path, "main")
    assert [path.name for path in Path("/proc").glob("[0-9]*") if lives_in(path, session)] == []


def lives_in(process: Path, session: int) -> bool:
    try:
        fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return int(fields[3]) == session and fields[0] != b"Z"


OPEN = """
import os, sys
for fd in range(256):
    try:
        os.fstat(fd)
    except OSError:
        continue
    print(f"fd={fd}")
print(f"in={len(sys.stdin.read())}")
"""


def test_no_descriptor_is_left_open_or_handed_on(tmp_path: Path) -> None:
    execute(tmp_path, "true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = reports(execute(tmp_path, (sys.executable, "-c", OPEN)))
    assert found == [{"fd": 0}, {"fd": 1}, {"fd": 2}, {"in": 0}]
    execute(tmp_path, ("no-such-program",))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


TRAPPING = (
    "trap 'sleep 0.2; echo saved; echo saved > saved; exit 0' TERM; "
    "echo > trapping; while :; do sleep 0.02; done"
)


@pytest.mark.parametrize(
    "run", [f"echo loss=1; {TRAPPING}", f"({TRAPPING}) & exec sleep 60", f"({TRAPPING}) & sleep 60"]
)
def test_what_ends_may_tidy_up(tmp_path: Path, run: str) -> None:
    failure = execute_past_limit(tmp_path, run, "trapping")[-1].failure
    assert failure is not None
    assert failure.kind is FailureKind.TIME_LIMIT
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "run/trials/0003/stdout.log").read_text().endswith("saved\n")


def test_what_is_left_in_the_background_may_tidy_up(tmp_path: Path) -> None:
    run = f"({TRAPPING}) & while [ ! -s trapping ]; do sleep 0.02; done; echo loss=1"
    assert execute(tmp_path, run)[-1].failure is None
    assert (tmp_path / "saved").exists()


def test_a_full_pipe_does_not_keep_a_command_from_ending(tmp_path: Path) -> None:
    talk = "head -c 300000 /dev/zero | tr '\\0' x; echo; echo end; exit 0"
    run = f'trap "{talk}" TERM; echo > trapping; while :; do sleep 0.02; done'
    execute_past_limit(tmp_path, run, "trapping")
    assert (tmp_path / "run/trials/0003/stdout.log").read_text().endswith("x\nend\n")


def test_a_progress_bar_is_no_silence(tmp_path: Path) -> None:
    run = r"for i in $(seq 30); do printf '\r%s%%' $i >&2; sleep 0.2; done"
    assert execute(tmp_path, run, silent_limit_s=5.0)[-1].failure is None


def test_a_progress_bar_without_end_gives_no_piece_of_a_number(tmp_path: Path) -> None:
    code = 'for i in range(20000): print(end=f"\\rstep {i} loss=0.123456789")'
    found = reports(execute(tmp_path, (sys.executable, "-c", code)))
    assert found == [{"loss": 0.123456789}]


def test_a_hundred_thousand_lines(tmp_path: Path) -> None:
    found = reports(execute(tmp_path, "seq -f 'loss=%.0f' 100000"))
    assert [report["loss"] for report in found] == list(range(1, 100_001))


@pytest.mark.parametrize("argv", [("no-such-program", "1"), ("./no-such-program",), ("./plain",)])
def test_a_program_that_is_not_there_is_a_failure_to_start(
    tmp_path: Path, argv: tuple[str, ...]
) -> None:
    (tmp_path / "plain").write_text("")
    failure = execute(tmp_path, argv)[-1].failure
    assert failure is not None
    assert failure.kind is FailureKind.NOT_STARTED
    assert argv[0] in failure.message


def test_a_program_is_looked_for_where_the_trial_looks(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "mine"
    program.write_text("#!/bin/sh\necho loss=4\n")
    program.chmod(0o755)
    path = f"bin:{os.environ['PATH']}"
    assert reports(execute(tmp_path, ("mine",), env={"PATH": path})) == [{"loss": 4}]
    assert reports(execute(tmp_path, ("bin/mine",))) == [{"loss": 4}]


def test_a_refused_value_is_a_failure_to_start(tmp_path: Path) -> None:
    failure = execute(tmp_path, "sh -c 'echo ${x}'", "$(touch pwned)")[-1].failure
    assert failure is not None
    assert failure.kind is FailureKind.NOT_STARTED
    assert "second shell" in failure.message


def test_details_are_of_this_attempt(tmp_path: Path) -> None:
    execute(tmp_path, "echo first >&2; exit 1")
    failure = again(tmp_path, "echo second; exit 2")[-1].failure
    assert failure is not None
    assert failure.details == "second"
    folder = tmp_path / "run/trials/0003"
    assert (folder / "stderr.log").read_text() == "first\n--- attempt 2 ---\n"
    assert (folder / "stdout.log").read_text() == "--- attempt 2 ---\nsecond\n"


def test_an_attempt_that_goes_on_tells_nothing_in_the_name_of_the_next(tmp_path: Path) -> None:
    """Its worker is gone, but it runs: on a machine that is cut off, or for a moment still."""
    execute(tmp_path, 'echo "$RAYTUNE_HPO_REPORT_FILE" > first; echo loss=1')
    straggler = """
    printf '{"metrics": {"loss": 8}}\n' >> "$(cat first)"
    echo loss=9 >> "$RAYTUNE_HPO_TRIAL_DIR/stderr.log"
    sleep 0.3
    printf '{"metrics": {"loss": 2}}\n' >> "$RAYTUNE_HPO_REPORT_FILE"
    sleep 0.3
    echo loss=3 >&2
    """
    assert reports(again(tmp_path, straggler)) == [{"loss": 2}, {"loss": 3}]


def test_a_file_of_an_earlier_trial_is_not_read(tmp_path: Path) -> None:
    options = MetricOptions(source="file", path="m.json")
    write = """printf '{\n "loss": %s\n}\n' ${x} > m.json"""
    assert reports(execute(tmp_path, write, 5, metrics=options)) == [{"loss": 5}]
    assert reports(execute(tmp_path, "true", 6, metrics=options)) == []
    assert reports(execute(tmp_path, write, 5, metrics=options)) == [{"loss": 5}]


def report_file(tmp_path: Path, text: str) -> list[Event]:
    (tmp_path / "lines").write_text(text)
    return execute(tmp_path, 'cat lines >> "$RAYTUNE_HPO_REPORT_FILE"; sleep 0.2')


def test_any_program_may_write_reports(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("weights")
    found = report_file(
        tmp_path,
        '{"metrics": {"loss": 1}}\n{"metrics": {"loss": 2}, "checkpoint": "model"}\n'
        + json.dumps({"metrics": {f"m{i}": i for i in range(20_000)}})
        + "\n",
    )
    assert [len(metrics) for metrics in reports(found)] == [1, 1, 20_000]
    assert found[-1].failure is None
    assert found[1].checkpoint is not None
    assert (tmp_path / "run" / found[1].checkpoint / "model").read_text() == "weights"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("garbage", "not 'garbage'"),
        ('{"loss": 1}', '{"metrics": {"loss": 0.1}'),
        ('{"metrics": {}, "checkpoint": "gone"}', "checkpoint that is not there"),
    ],
)
def test_a_line_that_is_no_report_is_a_failure(tmp_path: Path, line: str, words: str) -> None:
    failure = report_file(tmp_path, f"{line}\n")[-1].failure
    assert failure is not None
    assert failure.kind is FailureKind.EXCEPTION
    assert words in failure.message


def test_a_trial_inside_a_trial_has_variables_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYTUNE_HPO_CHECKPOINT", "of another trial")
    monkeypatch.setenv("RAYTUNE_HPO_PARAM_Y", "7")
    run = "echo a=${RAYTUNE_HPO_CHECKPOINT:-1} b=${RAYTUNE_HPO_PARAM_Y:-2} c=$RAYTUNE_HPO_TRIAL"
    assert reports(execute(tmp_path, run)) == [{"a": 1, "b": 2, "c": 3}]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, "exit code 1"),
        (126, "exit code 126: a command could not be executed (is it executable?)"),
        (137, "exit code 137: ended by signal SIGKILL (killed from outside: often out of memory)"),
        (-11, "ended by signal SIGSEGV (it crashed: invalid memory access)"),
        (255, "exit code 255"),
    ],
)
def test_exit_codes(code: int, text: str) -> None:
    assert explain_exit(code) == text


def test_no_value_stands_in_the_list_of_processes(tmp_path: Path) -> None:
    run = 'tr "\\0" " " < /proc/$$/cmdline > shown; : ${x}'
    execute(tmp_path, run, "secret-value")
    assert "secret-value" not in (tmp_path / "shown").read_text()
