from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from raytune_hpo import command, runs, session
from raytune_hpo.cli import cli, exit_code
from raytune_hpo.errors import InfrastructureError, RunExistsError, RunLockedError
from raytune_hpo.view.plan import command_text
from tests.golden import made_runs
from tests.golden.made_runs import MINIMIZE, MadeRun

HEAVY = ("ray", "mlflow", "optuna", "pandas", "scipy", "pydantic", "numpy", "rich", "yaml")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def finished(folder: Path) -> Path:
    return made_runs.minimize().write(folder / runs.RESULTS_DIR / "demo")


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


def experiment_file(folder: Path, text: str = MINIMIZE) -> Path:
    path = folder / "demo.yaml"
    path.write_text(text)
    return path


# How it starts and fails


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom raytune_hpo.cli import cli\n"
        "try:\n    cli(['--help'])\nexcept SystemExit as end:\n    code = end.code\n"
        f"print(code, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_command_line_is_installed() -> None:
    command = Path(sys.executable).with_name("raytune-hpo")
    done = subprocess.run([command, "reume"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'resume'?" in done.stderr


def test_unknown_option_gets_the_nearest() -> None:
    result = invoke("resume", "--trails", "3")
    assert result.exit_code == 2
    assert "Did you mean one of: '--trials'" in result.output


def test_every_verb_says_what_it_does() -> None:
    for name, verb in cli.commands.items():
        assert len(verb.get_short_help_str()) > 10, name
    assert {"report", "compare", "import"}.isdisjoint(cli.commands)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InfrastructureError("no node"), 3),
        (RunLockedError("held"), 3),
        (RunExistsError("is there"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_codes_without_a_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def run_experiment(*args: Any, **kwargs: Any) -> Path:
        raise error

    monkeypatch.setattr(session, "run_experiment", run_experiment)
    result = invoke("run", str(experiment_file(folder)))
    assert result.exit_code == code
    assert result.output == f"{str(error) or 'interrupted'}\n"


def test_own_bugs_keep_their_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_experiment(*args: Any, **kwargs: Any) -> Path:
        raise ZeroDivisionError

    monkeypatch.setattr(session, "run_experiment", run_experiment)
    result = invoke("run", str(experiment_file(folder)))
    assert isinstance(result.exception, ZeroDivisionError)


# Before a run


def test_init_writes_a_file_that_check_accepts(folder: Path) -> None:
    assert invoke("init").exit_code == 0
    checked = invoke("check", "experiment.yaml")
    assert checked.exit_code == 0, checked.output
    assert checked.output.startswith("experiment.yaml: ok\n")


def test_init_overwrites_nothing(folder: Path) -> None:
    path = experiment_file(folder)
    result = invoke("init", str(path))
    assert result.exit_code == 2
    assert "is there already" in result.output
    assert path.read_text() == MINIMIZE


def test_check_locates_mistakes(folder: Path) -> None:
    experiment_file(folder, MINIMIZE.replace("layers: {min: 2", "layers: {mni: 2"))
    result = invoke("check", "demo.yaml")
    assert result.exit_code == 2
    assert "demo.yaml:6:12: parameters.layers.mni" in result.output
    assert "did you mean 'min'?" in result.output


def test_check_warns_of_what_this_machine_lacks(folder: Path) -> None:
    experiment_file(folder, MINIMIZE + "resources: {gpu: 4096}\n")
    result = invoke("check", "demo.yaml")
    assert result.exit_code == 0
    assert "each trial asks for 4096 GPU; this machine has" in result.stderr


def test_missing_file_points_to_init(folder: Path) -> None:
    result = invoke("run", "nothing.yaml")
    assert result.exit_code == 2
    assert "raytune-hpo init nothing.yaml" in result.output


def test_schema_is_json_schema() -> None:
    schema = json.loads(invoke("schema").output)
    assert {"run", "objective", "parameters"} <= set(schema["properties"])


def test_dry_run_shows_what_would_run(folder: Path) -> None:
    text = (
        MINIMIZE
        + "search: {algorithm: random, seed: 1, initial: [{lr: 0.01, layers: 3, optimizer: sgd}]}\n"
    )
    text = text.replace("[sgd, adam]", "[sgd, 'a dam; rm -rf']")
    experiment_file(folder, text)
    result = invoke("run", "demo.yaml", "--dry-run", "--trials", "2", "--name", "007")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "007: nothing is run (--dry-run)"
    assert "  searcher    random (asked for)" in lines
    assert "  trials      2" in lines
    commands = [line.strip() for line in lines if "python train.py" in line]
    assert len(commands) == 2
    assert all(len(shlex.split(command)) == 8 for command in commands)
    assert not (folder / runs.RESULTS_DIR).exists()


@pytest.mark.parametrize("run", ["${x} end", '"a ${x}" end', "'a ${x}' end", '"${x}${x}" ${x}'])
def test_shown_command_is_the_command_that_runs(run: str) -> None:
    config, names = {"x": 'it\'s "$HOME" `id` \\ done'}, ["x"]
    shown = command_text(f"printf '<%s>' {run}", config, names)
    real = command.build_argv(f"printf '<%s>' {run}", config, names)
    env = command.environment(config, names)
    told = subprocess.run(["/bin/sh", "-c", shown], capture_output=True, check=True, env={})
    ran = subprocess.run(real, capture_output=True, check=True, env=env)
    assert told.stdout == ran.stdout != b""


def test_dry_run_is_the_same_each_time(folder: Path) -> None:
    experiment_file(folder)
    first, second = invoke("run", "demo.yaml", "--dry-run"), invoke("run", "demo.yaml", "--dry-run")
    assert first.exit_code == 0, first.output
    assert first.output == second.output
    assert first.output.count("python train.py --lr") == 3


def test_what_kubernetes_needs_besides_is_asked_for_at_once(folder: Path) -> None:
    result = invoke("run", str(experiment_file(folder)), "--on", "kuberay")
    assert result.exit_code == 2
    assert "targets.kuberay.image: has to be said" in result.output
    assert "targets.kuberay.pvc: has to be said" in result.output


def test_the_manifest_is_printed_and_nothing_is_sent(folder: Path) -> None:
    words = ("image=example.com/x:1", "pvc={claim: runs}", "namespace=team-a")
    settings = [word for text in words for word in ("--set", f"targets.kuberay.{text}")]
    file = experiment_file(folder)
    result = invoke("run", str(file), "--on", "kuberay", "--dry-run", *settings)
    assert result.exit_code == 0, result.output
    kinds = [one["kind"] for one in yaml.safe_load_all(result.output)]
    assert kinds == ["ConfigMap", "RayJob"]
    secret = invoke("run", str(file), "--on", "kuberay", "--set", "env.HF_TOKEN=abc", *settings)
    assert secret.exit_code == 2
    assert "a secret must not stand in a manifest" in secret.output


def test_namespaces_of_teams_are_printed(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text("tenants: {team-a: {cpus: 18, users: [alice]}}\n")
    result = invoke("tenants", str(file))
    assert result.exit_code == 0, result.output
    kinds = {one["kind"] for one in yaml.safe_load_all(result.output)}
    assert {"Namespace", "Role", "RoleBinding", "ResourceQuota", "NetworkPolicy"} <= kinds


# Running, with the driver replaced


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the driver by one that writes a hand-made journal; keep how it was called."""
    calls: list[dict[str, Any]] = []

    def run_experiment(experiment: Any, **options: Any) -> Path:
        calls.append({"experiment": experiment, **options})
        made = made_runs.minimize()
        run_dir = session.run_dir_of(experiment, options["folder"])
        for record in made.records:
            options["surroundings"].on_records([record])
        return made.write(run_dir)

    monkeypatch.setattr(session, "run_experiment", run_experiment)
    return calls


def test_run_prints_lines_and_the_summary(folder: Path, driver: list[dict[str, Any]]) -> None:
    experiment_file(folder)
    result = invoke("run", "demo.yaml", "--trials", "9", "--parallel", "3", "--set", "retries=1")
    assert result.exit_code == 0, result.output
    assert "trial 3 completed in 61 s: val_loss=0.20999" in result.output
    assert "apply      raytune-hpo best demo --format env" in result.output
    experiment = driver[0]["experiment"]
    assert (experiment.trials, experiment.parallel, experiment.retries) == (9, 3, 1)
    assert driver[0]["source"] == MINIMIZE
    assert driver[0]["resume"] is False


def test_quiet_prints_the_result_only(folder: Path, driver: list[dict[str, Any]]) -> None:
    result = invoke("run", str(experiment_file(folder)), "--quiet")
    assert result.output.startswith("demo: ended")
    assert "trial 0 completed" not in result.output


def test_runs_of_a_file_elsewhere_are_kept_here(folder: Path, driver: list[dict[str, Any]]) -> None:
    (folder / "sub").mkdir()
    assert invoke("run", str(experiment_file(folder / "sub"))).exit_code == 0
    assert invoke("best", "demo").exit_code == 0
    assert driver[0]["folder"] == folder / "sub"


def test_storage_is_relative_to_the_working_folder(
    folder: Path, driver: list[dict[str, Any]]
) -> None:
    result = invoke("run", str(experiment_file(folder)), "--storage", "else where")
    assert result.exit_code == 0, result.output
    assert (folder / "else where" / "demo" / "journal" / "000001.jsonl").exists()
    assert f"resume '{folder}/else where/demo' --trials" in result.output


def test_secrets_of_the_file_are_not_kept(folder: Path, driver: list[dict[str, Any]]) -> None:
    experiment_file(folder, MINIMIZE + "env: {API_TOKEN: hunter2}\n")
    assert invoke("run", "demo.yaml").exit_code == 0
    assert "hunter2" not in driver[0]["source"]


def test_resume_hands_the_new_limits_over(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def resume_run(run_dir: Path, *, limits: Any, **others: Any) -> Path:
        seen.append((run_dir, limits.trials, limits.parallel, limits.time_limit_s))
        return run_dir

    monkeypatch.setattr(session, "resume_run", resume_run)
    result = invoke("resume", "--trials", "9", "--time-limit", "1h30m")
    assert result.exit_code == 0, result.output
    assert [(run_dir.name, *rest) for run_dir, *rest in seen] == [("demo", 9, None, 5400.0)]


def test_wrong_time_limit_is_explained(finished: Path) -> None:
    result = invoke("resume", "demo", "--time-limit", "soon")
    assert result.exit_code == 2
    assert "must be a duration such as 90s" in result.output


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("trials", 0),
        ("time_limit", 0),
        ("interrupted", 130),
        ("stopped", 130),
        ("spec", 2),
        ("infrastructure", 3),
    ],
)
def test_exit_code_follows_the_end(reason: str, code: int) -> None:
    run = made_runs.minimize()
    run.session()
    run.finish(reason)
    assert exit_code(run.state()) == code


def test_exit_code_when_nothing_succeeded() -> None:
    assert exit_code(made_runs.failed().state()) == 1


# A run on disk


def test_run_is_found_by_name_by_folder_or_as_the_newest(finished: Path, folder: Path) -> None:
    other = made_runs.several().write(folder / runs.RESULTS_DIR / "front")
    os.utime(finished / "journal" / "000001.jsonl", (1, 1))
    assert runs.find("demo") == runs.RESULTS_DIR / "demo"
    assert runs.find(str(other)) == other
    assert runs.find(None).name == "front"


def test_unknown_run_gets_the_nearest(finished: Path) -> None:
    result = invoke("status", "dmo")
    assert result.exit_code == 2
    assert "there is no run 'dmo' (did you mean 'demo'?)" in result.output


def test_without_any_run_status_says_how_to_start(folder: Path) -> None:
    result = invoke("status")
    assert result.exit_code == 2
    assert "raytune-hpo run FILE" in result.output


def test_status_of_a_finished_run(finished: Path) -> None:
    result = invoke("status", "demo")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("demo: ended after")
    assert "best       trial 3" in result.output


def test_damaged_journal_is_no_traceback(finished: Path) -> None:
    path = finished / "journal" / "000001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{}\n", *lines[2:]]))
    result = invoke("status", "demo")
    assert result.exit_code == 3
    assert "damaged at byte" in result.output


def test_best_as_yaml_and_json(finished: Path) -> None:
    best = {"lr": 0.00123456789, "layers": 5, "optimizer": "adam"}
    assert yaml.safe_load(invoke("best", "demo").stdout) == best
    assert json.loads(invoke("best", "demo", "--format", "json").stdout) == best


def hostile_run(folder: Path) -> None:
    text = MINIMIZE.replace("[sgd, adam]", '["a\'b; $(touch x)", adam]')
    text = text.replace("layers:", "net.layers:").replace("${layers}", "${net.layers}")
    run = MadeRun(text)
    run.start(0, {"lr": 0.5, "net.layers": 3, "optimizer": "a'b; $(touch x)"})
    run.report(0, {"val_loss": 1.0})
    run.end(0)
    run.finish()
    run.write(folder / runs.RESULTS_DIR / "demo")


def test_best_as_env_is_safe_to_evaluate(folder: Path) -> None:
    hostile_run(folder)
    script = invoke("best", "demo", "--format", "env").stdout
    script += 'printf "%s|%s" "$RAYTUNE_HPO_PARAM_OPTIMIZER" "$RAYTUNE_HPO_PARAM_NET_LAYERS"'
    done = subprocess.run(
        ["sh", "-euc", script],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "a'b; $(touch x)|3"
    assert not (folder / "x").exists()


def test_best_as_args_is_safe_on_a_command_line(folder: Path) -> None:
    hostile_run(folder)
    line = invoke("best", "demo", "--format", "args").stdout
    assert shlex.split(line) == [
        *("--lr", "0.5", "--net.layers", "3", "--optimizer", "a'b; $(touch x)")
    ]


def test_nested_names_are_nested_as_json(folder: Path) -> None:
    hostile_run(folder)
    assert json.loads(invoke("best", "demo", "--format", "json").stdout)["net"] == {"layers": 3}


def test_best_of_several_objectives_asks_which(folder: Path) -> None:
    made_runs.several().write(folder / runs.RESULTS_DIR / "front")
    result = invoke("best", "front")
    assert result.exit_code == 2
    assert "choose one with --trial N" in result.output
    chosen = invoke("best", "front", "--trial", "1", "--format", "json")
    assert json.loads(chosen.stdout) == {"threads": 8}


def test_best_of_a_failed_run_says_why(folder: Path) -> None:
    made_runs.failed().write(folder / runs.RESULTS_DIR / "demo")
    result = invoke("best", "demo")
    assert result.exit_code == 2
    assert "AttributeError: fitt" in result.output


def test_logs_of_a_trial(finished: Path) -> None:
    trial = finished / "trials" / "0003"
    trial.mkdir(parents=True)
    (trial / "stdout.log").write_bytes(b"epoch 1\n\xff\n")
    (trial / "stderr.log").write_text("warning\n")
    assert invoke("logs", "demo", "3").stdout_bytes == b"epoch 1\n\xff\n"
    assert invoke("logs", "3", "--stderr").stdout == "warning\n"
    assert invoke("logs", "demo", "3", "-f").stdout_bytes == b"epoch 1\n\xff\n"
    missing = invoke("logs", "demo", "4")
    assert missing.exit_code == 2
    assert "trial 4 has no stdout.log; trials with output: 3 to 3" in missing.output


def test_logs_of_the_driver(finished: Path) -> None:
    (finished / "driver.log").write_text("ray says\n")
    assert invoke("logs", "demo").stdout == "ray says\n"


def test_following_ends_after_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "stdout.log"
    path.write_text("one\n")
    answers: Iterator[bool] = iter([False, True])

    def over() -> bool:
        answer = next(answers)
        if answer:
            with path.open("a") as file:
                file.write("two\n")
        return answer

    assert b"".join(runs.chunks(path, over)) == b"one\ntwo\n"


def test_stop_without_a_driver_changes_nothing(finished: Path) -> None:
    result = invoke("stop", "demo")
    assert result.exit_code == 0
    assert "nothing to stop" in result.output
    assert not (finished / runs.STOP_FILE).exists()


def test_stop_asks_the_living_driver(finished: Path) -> None:
    with (finished / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write('{"host": "node1", "pid": 4711, "since": 0.0}')
        lock.flush()
        result = invoke("stop", "demo")
    assert "process 4711 on node1 was asked to stop" in result.output
    assert (finished / runs.STOP_FILE).exists()


def test_mlflow_sync_says_what_was_done(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str | None, str | None]] = []

    def bring(run_dir: Path, uri: str | None, experiment: str | None) -> str:
        calls.append((run_dir.name, uri, experiment))
        return "all there"

    monkeypatch.setattr("raytune_hpo.tracking.sync.sync", bring)
    result = invoke("mlflow", "sync", "demo", "--uri", "sqlite:///other.db")
    assert (result.exit_code, result.stdout) == (0, "all there\n")
    assert calls == [("demo", "sqlite:///other.db", None)]


def test_mlflow_group_turns_errors_into_exit_codes(folder: Path) -> None:
    result = invoke("mlflow", "sync", "nothing")
    assert result.exit_code == 2
    assert "there is no run 'nothing'" in result.output


# The doctor


def test_doctor_looks_at_the_machine(folder: Path) -> None:
    result = invoke("doctor")
    subjects = [line[6:20].strip() for line in result.output.splitlines()]
    assert subjects == [
        *("Python", "ray", "mlflow", "optuna", "CPUs", "memory", "disk"),
        *("Ray's folder", "Ray's ports", "shared memory"),
    ]


def test_doctor_looks_at_the_store_of_a_file_and_of_a_run(finished: Path, folder: Path) -> None:
    experiment_file(folder, MINIMIZE + "mlflow: {uri: sqlite:///no/where.db}\n")
    for target, words in (("demo.yaml", f"no folder {folder}/no"), ("demo", "/home/ada")):
        result = invoke("doctor", target)
        assert words in result.stdout.splitlines()[-1]
        assert result.exit_code == 3


def test_doctor_leaves_a_store_that_is_off_alone(folder: Path) -> None:
    experiment_file(folder, MINIMIZE + "mlflow: false\n")
    assert "MLflow" not in invoke("doctor", "demo.yaml").stdout
