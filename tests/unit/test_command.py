"""Commands: no value injects anything, nothing is left behind, ends are explained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import command
from raytune_hpo.attempt import Assignment, Attempt, Event, Job, begin
from raytune_hpo.collect import MetricOptions
from raytune_hpo.trial import FailureKind

HOSTILE = [
    "plain",
    "two words",
    "it's",
    'say "hi"',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    "a\nb",
    "*",
    "~",
    "-rf",
    "\\",
    "$HOME",
    "&& touch pwned",
    "",
]


def job(tmp_path: Path, run: Any, **more: Any) -> Job:
    options: dict[str, Any] = {
        "function": None,
        "single_metric": "loss",
        "folder": tmp_path,
        "workdir": tmp_path,
        "env": {},
        "setup": None,
        "time_limit_s": None,
        "silent_limit_s": None,
        "keep_checkpoints": 1,
        "parameters": ("x",),
        **more,
    }
    return Job(run_dir=tmp_path / "run", run=run, **options)


def execute(tmp_path: Path, run: Any, x: Any = 1, **more: Any) -> list[Event]:
    attempt = begin(job(tmp_path, run, **more), Assignment(3, 1, {"x": x}))
    return to_the_end(attempt)


def to_the_end(attempt: Attempt) -> list[Event]:
    """Return all that an attempt tells."""
    events: list[Event] = []
    while not events or not events[-1].is_end:
        events += attempt.events(5.0)
    assert attempt.stop()
    return events


def execute_past_limit(tmp_path: Path, run: Any, file: str) -> list[Event]:
    """Run a command whose time limit is over once it has written something to a file."""
    attempt = begin(job(tmp_path, run, time_limit_s=600.0), Assignment(3, 1, {"x": 1}))
    deadline_s = time.monotonic() + 60
    while not (tmp_path / file).exists() or not (tmp_path / file).stat().st_size:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    attempt.began_s -= 600.0
    return to_the_end(attempt)


def reports(events: list[Event]) -> list[dict[str, Any]]:
    return [event.metrics for event in events if event.metrics is not None]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("form", ["${x}", "'${x}'", '"${x}"', "pre${x}post", "'a'\"${x}\""])
def test_no_value_is_more_than_one_word(tmp_path: Path, value: str, form: str) -> None:
    show = "import sys; print(f'n={len(sys.argv)}'); open('o', 'w').write(sys.argv[1])"
    (tmp_path / "show.py").write_text(show)
    events = execute(tmp_path, f"{sys.executable} show.py {form}", value)
    assert reports(events) == [{"n": 2}]
    expected = {"pre${x}post": f"pre{value}post", "'a'\"${x}\"": f"a{value}"}.get(form, value)
    assert (tmp_path / "o").read_text() == expected
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("value", HOSTILE)
def test_argv_lists_are_run_without_a_shell(tmp_path: Path, value: str) -> None:
    code = "import sys; open('o', 'w').write(sys.argv[1])"
    execute(tmp_path, (sys.executable, "-c", code, "${x}"), value)
    assert (tmp_path / "o").read_text() == value
    assert not (tmp_path / "pwned").exists()


def test_other_variables_stay_the_shells(tmp_path: Path) -> None:
    events = execute(tmp_path, "A=7; echo a=${A} b=${B:-8} loss=${x}", 5)
    assert reports(events) == [{"a": 7, "b": 8, "loss": 5}]


def test_parameters_come_by_environment_and_file_too(tmp_path: Path) -> None:
    file = 'grep -o "[0-9.]*" "$RAYTUNE_HPO_PARAMS_FILE" | sed s/^/file=/'
    run = f"echo env=$RAYTUNE_HPO_PARAM_X; {file}"
    assert reports(execute(tmp_path, run, 2.5)) == [{"env": 2.5}, {"file": 2.5}]


def test_output_is_kept_and_read_from_both_streams(tmp_path: Path) -> None:
    events = execute(tmp_path, "echo loss=1; echo acc=0.5 >&2")
    assert sorted(map(str, reports(events))) == ["{'acc': 0.5}", "{'loss': 1}"]
    folder = tmp_path / "run" / "trials" / "0003"
    assert (folder / "stdout.log").read_text() == "loss=1\n"
    assert (folder / "stderr.log").read_text() == "acc=0.5\n"


def test_last_line_without_newline_counts(tmp_path: Path) -> None:
    assert reports(execute(tmp_path, "printf loss=3")) == [{"loss": 3}]


def test_invalid_utf8_and_long_lines_do_no_harm(tmp_path: Path) -> None:
    run = r"printf '\377\376 loss=1\n'; head -c 300000 /dev/zero | tr '\0' x; echo; echo loss=2"
    assert reports(execute(tmp_path, run)) == [{"loss": 1}, {"loss": 2}]


def test_many_lines(tmp_path: Path) -> None:
    run = "i=0; while [ $i -lt 3000 ]; do echo loss=$i; i=$((i+1)); done"
    assert [r["loss"] for r in reports(execute(tmp_path, run))] == list(range(3000))


def test_a_file_of_metrics(tmp_path: Path) -> None:
    run = "echo loss=9; echo loss=1 > m.txt; echo loss=2 >> m.txt"
    options = MetricOptions(source="file", path="m.txt")
    assert reports(execute(tmp_path, run, metrics=options)) == [{"loss": 1}, {"loss": 2}]


def test_a_json_document_over_several_lines(tmp_path: Path) -> None:
    run = r"""printf '{\n "loss": 0.5,\n "sub": {"acc": 1}\n}\n' > m.json"""
    options = MetricOptions(source="file", path="m.json")
    assert reports(execute(tmp_path, run, metrics=options)) == [{"loss": 0.5, "sub.acc": 1}]


@pytest.mark.parametrize(
    ("run", "kind", "words"),
    [
        ("exit 3", FailureKind.EXIT_CODE, "exit code 3"),
        ("no-such-program", FailureKind.EXIT_CODE, "not found"),
        ("kill -SEGV $$", FailureKind.SIGNAL, "SIGSEGV (it crashed"),
        ("sh -c 'kill -KILL $$'; exit $?", FailureKind.EXIT_CODE, "SIGKILL (killed from outside"),
    ],
)
def test_ends_are_explained(tmp_path: Path, run: str, kind: FailureKind, words: str) -> None:
    failure = execute(tmp_path, f"echo oops >&2; {run}")[-1].failure
    assert failure is not None
    assert failure.kind is kind
    assert words in failure.message
    assert "oops" in failure.details


def test_a_setup_that_fails_fails_the_trial(tmp_path: Path) -> None:
    failure = execute(tmp_path, "echo loss=1", setup="false")[-1].failure
    assert failure is not None
    assert reports(execute(tmp_path, "echo loss=$A", setup="A=4")) == [{"loss": 4}]


def test_a_missing_folder_is_a_failure_to_start(tmp_path: Path) -> None:
    failure = execute(tmp_path, "true", workdir=tmp_path / "gone")[-1].failure
    assert failure is not None
    assert failure.kind is FailureKind.NOT_STARTED


def gone(pid: int, within_s: float = 5.0) -> bool:
    """Return whether a process ends, now or soon."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_background_processes_end_with_the_command(tmp_path: Path) -> None:
    execute(tmp_path, "sleep 60 & echo $! > pid; echo loss=1")
    assert gone(int((tmp_path / "pid").read_text()))


def test_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    events = execute_past_limit(tmp_path, "sleep 60 & echo $! > pid; sleep 60", "pid")
    failure = events[-1].failure
    assert failure is not None
    assert failure.kind is FailureKind.TIME_LIMIT
    assert gone(int((tmp_path / "pid").read_text()))


def test_silence_ends_it_but_output_does_not(tmp_path: Path) -> None:
    failure = execute(tmp_path, "echo loss=1; sleep 60", silent_limit_s=0.6)[-1].failure
    assert failure is not None
    assert failure.kind is FailureKind.SILENT
    talk = "for i in $(seq 30); do echo loss=$i >&2; sleep 0.2; done"
    assert execute(tmp_path, talk, silent_limit_s=5.0)[-1].failure is None


def test_stop_ends_a_command_that_ignores_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raytune_hpo.process.STOP_GRACE_S", 0.3)
    run = "trap '' TERM; echo $$ > pid; echo loss=1; while :; do sleep 0.1; done"
    attempt = begin(job(tmp_path, run), Assignment(0, 1, {"x": 1}))
    assert attempt.events(5.0)[0].metrics == {"loss": 1}
    assert attempt.stop()
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_killed_worker_leaves_nothing_behind(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.unit.test_command import job
from raytune_hpo.attempt import Assignment, begin
tmp = Path(sys.argv[1])
attempt = begin(job(tmp, "sleep 60 & echo $! > pid2; echo $$ > pid; echo loss=1; sleep 60"),
                Assignment(0, 1, {{"x": 1}}))
attempt.events(10.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    for name in ("pid", "pid2"):
        assert gone(int((tmp_path / name).read_text()), within_s=2.0)


def test_a_script_that_reports_by_itself(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import raytune_hpo, pathlib\n"
        "before = raytune_hpo.get_checkpoint()\n"
        "start = int((before / 'epoch').read_text()) if before else 0\n"
        "for epoch in range(start + 1, start + 3):\n"
        "    pathlib.Path('epoch').write_text(str(epoch))\n"
        "    raytune_hpo.report(loss=1 / epoch, epoch=epoch, checkpoint='epoch')\n"
    )
    events = execute(tmp_path, f"{sys.executable} script.py")
    assert [r["epoch"] for r in reports(events)] == [1, 2]
    checkpoint = events[1].checkpoint
    assert checkpoint is not None
    again = begin(
        job(tmp_path, f"{sys.executable} script.py"), Assignment(3, 2, {"x": 1}, checkpoint)
    )
    more: list[Event] = []
    while not more or not more[-1].is_end:
        more += again.events(5.0)
    assert [r["epoch"] for r in reports(more)] == [3, 4]


def test_names_that_differ_in_signs_only_are_kept_apart() -> None:
    text = command.shell_text("run ${a-b} ${a_b}", ["a-b", "a_b"])
    variables = command.environment({"a-b": 1, "a_b": 2}, ["a-b", "a_b"])
    shown = subprocess.run(
        ["/bin/sh", "-c", text.replace("run", "echo", 1)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "1 2\n"
