"""What hostile files, names, values and output may not do; docs/security.md has the list."""

from __future__ import annotations

import ast
import io
import itertools
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import raytune_hpo
from raytune_hpo import command, document, environment, escape, runs, session, spec, trust
from raytune_hpo.cli import cli
from raytune_hpo.collect.base import Metrics
from raytune_hpo.collect.file import FileSource
from raytune_hpo.errors import RunError, SpecError
from raytune_hpo.redact import redact
from raytune_hpo.state import RunState
from raytune_hpo.tracking.names import Names, note
from raytune_hpo.view import apply, plan, summary
from raytune_hpo.view.live import LiveView
from raytune_hpo.view.notebook import result_html
from raytune_hpo.view.table import LiveTable
from tests.golden import made_runs
from tests.golden.made_runs import MadeRun

HOSTILE = (
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]0;owned\x07",  # sets the title
    "\x1b]52;c;cm0gLXJmIH4K\x07",  # fills the clipboard
    "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",  # a link under another text
    "\x1b[8mhidden",
    "\x1bP+q544e\x1b\\",  # asks the terminal, which answers as if typed
    "\x9b2J\x9d0;owned\x9c",  # the same in C1
    "100%\rloss=0.1",
    "a\b\b\bb\x7f\x00",
    "\u202eexe.gpj",
    "\u2066a\u2069\u200b\ufeff\u2028b\u2029",
    "\U000e0041\U000e0042",  # tags: letters nobody sees
    "[red]x[/red][link=http://evil]y[/link][/]",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "one\ntwo\r\nthree\x0bfour\x85five",
    "\ud800",
)
POISON = "".join(HOSTILE[:-1])
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def controls(text: str, allowed: str = "\n") -> list[str]:
    """Return the characters of a text that steer a terminal."""
    signs = {*_COLOUR.sub("", text)} - {*allowed}
    return [s for s in signs if unicodedata.category(s) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")]


def experiment(**fields: Any) -> str:
    """Return an experiment file in JSON, which is YAML."""
    base: dict[str, Any] = {
        "name": "demo",
        "run": "python train.py",
        "objective": {"metric": "loss"},
        "parameters": {"x": {"min": 0.0, "max": 1.0}},
    }
    return json.dumps({**base, **fields})


@pytest.fixture
def hostile_run() -> MadeRun:
    """A run in which every text that somebody else chose is hostile."""
    metric = f"loss{POISON.replace('`', '')}"
    text = experiment(
        objective={"metric": metric},
        constraints=["`" + POISON + "` <= 1"],
        parameters={"x": {"values": [POISON, "b"]}, "y": {"min": 0.0, "max": 1.0}},
        mlflow={"experiment": POISON},
        baseline={"x": "b", "y": 0.5},
    )
    run = MadeRun(text, reason=POISON)
    for trial in range(3):
        run.start(trial, {"x": POISON, "y": trial / 4}, "search" if trial else "baseline")
        run.report(trial, {metric: trial + 1.0, POISON: float(trial)})
        run.end(trial)
    run.start(3, {"x": POISON, "y": 0.1})
    run.end(3, "failed", message=POISON, details=f"Traceback:\n{POISON}\n\tat {POISON}")
    run.start(4, {"x": POISON, "y": 0.1})
    run.report(4, {metric: 9.0, POISON: 0.0})
    return run


# Text of strangers on a screen


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_are_written_out(text: str) -> None:
    shown = escape.visible(text)
    assert shown.isprintable()
    assert not controls(shown)
    passed = b"".join(escape.for_terminal([text.encode("utf-8", "surrogatepass")])).decode()
    assert not controls(passed, "\n\t")


@given(st.text(st.characters(codec=None), max_size=40))
def test_any_text_is_one_harmless_line(text: str) -> None:
    assert not controls(escape.visible(text), "")
    assert escape.lines([text]).count("\n") == 1
    assert len(escape.lines([text * 20], 50)) <= 51


def test_what_is_harmless_stays_as_it_is() -> None:
    text = "loss=1e-3 größer 漢字 👍 \N{NO-BREAK SPACE}[0]"
    assert escape.visible(text) == text
    assert b"".join(escape.for_terminal([text.encode()])).decode() == text


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_it_does_not_matter_where_output_is_cut(output: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(output)]
    pieces = [output[a:b] for a, b in itertools.pairwise(places)]
    whole = b"".join(escape.for_terminal([output]))
    assert b"".join(escape.for_terminal(pieces)) == whole
    assert not controls(whole.decode(), "\n\t")


@pytest.mark.parametrize(
    "colour", ["", "0", "1;31", "01;38;5;208", "48;2;1;22;255", "4;97;100", "39;49"]
)
def test_colours_pass(colour: str) -> None:
    sequence = f"\x1b[{colour}m".encode()
    assert b"".join(escape.for_terminal([sequence[:2], sequence[2:]])) == sequence


@pytest.mark.parametrize("other", ["8", "28", "38;5", "38;9;1", "38;2;1;2", "1;8", "1" * 61])
def test_what_is_no_plain_colour_does_not_pass(other: str) -> None:
    assert b"".join(escape.for_terminal([f"\x1b[{other}m".encode()])) == f"\\x1b[{other}m".encode()


def test_a_progress_bar_does_not_write_over_what_was_there() -> None:
    pieces = [b"10%\r", b"20%\r\n", b"done\r"]
    assert b"".join(escape.for_terminal(pieces)) == b"10%\n20%\ndone\n"


def test_a_terminal_of_another_encoding_gets_what_it_can_show() -> None:
    assert b"".join(escape.for_terminal(["é漢".encode()], "latin-1")) == b"\xe9\\u6f22"


def test_logs_on_a_terminal_are_harmless(tmp_path: Path) -> None:
    trial = made_runs.minimize().write(tmp_path / runs.RESULTS_DIR / "demo") / "trials" / "0003"
    trial.mkdir(parents=True)
    written = f"{POISON}\n\x1b[31mred".encode()
    (trial / "stdout.log").write_bytes(written)
    words = [sys.executable, "-m", "raytune_hpo", "logs", "demo", "3"]
    piped = subprocess.run(words, cwd=tmp_path, capture_output=True, check=True)
    assert piped.stdout == written
    ours, theirs = pty.openpty()
    subprocess.run(words, cwd=tmp_path, stdout=theirs, check=True)
    shown = os.read(ours, 1 << 16).decode().replace("\r\n", "\n")
    os.close(ours)
    os.close(theirs)
    assert not controls(shown, "\n\t")
    assert "\\x1b]52;c;" in shown
    assert shown.endswith(f"\n\x1b[31mred{escape.RESET}")


def screens(run: MadeRun) -> Iterator[str]:
    """Yield everything that people see of a run."""
    where, state = Path("raytune-results/demo"), run.state()
    holder = {"pid": 1, "host": "node1", "since": run.now}
    yield summary.status(state, where, holder=holder, now_t=run.now, tracking=POISON)
    yield summary.summary(state, where, tracking=POISON)
    yield plan.outline(run.experiment) + plan.plan(run.experiment)
    stream = io.StringIO()
    view = LiveView(where, stream=stream, tracking=lambda: POISON, terminal=False)
    view(run.records)
    view.note(POISON)
    yield stream.getvalue()
    yield table(run, where)


def table(run: MadeRun, where: Path) -> str:
    screen = io.StringIO()
    console = Console(file=screen, width=400, height=40, force_terminal=True)
    drawn = LiveTable(screen, run.state(), where, lambda: POISON, console=console)
    for message in ("", POISON):
        drawn.message = message
        console.print(drawn.render(run.now))
    return screen.getvalue()


def test_nothing_hostile_reaches_a_screen(hostile_run: MadeRun) -> None:
    shown = list(screens(hostile_run))
    assert [controls(text) for text in shown] == [[]] * 5
    assert all("\\x1b" in text for text in shown)
    assert not [text for text in shown[:-1] if "\x1b" in text]


def test_nothing_hostile_reaches_the_screen_of_a_run_without_result() -> None:
    run = MadeRun(experiment())
    run.start(0, {"x": 0.5})
    run.end(0, "failed", message=POISON, details=POISON)
    run.finish("same_error", POISON)
    assert [controls(text) for text in screens(run)] == [[]] * 5
    with pytest.raises(RunError) as caught:
        apply.chosen_trial(run.state())
    assert not controls(str(caught.value))


def test_names_are_no_markup_of_the_table() -> None:
    """An unbalanced tag would even end the drawing with an error."""
    run = MadeRun(experiment(objective={"metric": "[/red][bold]p99"}))
    run.start(0, {"x": 0.5})
    run.report(0, {"[/red][bold]p99": 1.0})
    run.end(0, "failed", message="[/blink] said the command")
    shown = table(run, Path("demo"))
    assert "[/red][bold]p99" in shown
    assert "[/blink] said the command" in shown


def test_a_very_long_text_does_not_fill_the_screen() -> None:
    run = MadeRun(experiment(parameters={"x": {"values": ["a" * 500_000, "b"]}}))
    run.start(0, {"x": "a" * 500_000})
    run.report(0, {"loss": 1.0})
    run.end(0)
    state = run.state()
    assert len(summary.summary(state, Path("demo"))) < 2 * escape.MAX_LINE
    assert len(result_html(state)) < 2 * escape.MAX_LINE


class _Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


def test_html_holds_texts_as_texts(hostile_run: MadeRun) -> None:
    page = _Tags()
    page.feed(result_html(hostile_run.state()))
    drawing = {"svg", "text", "circle", "polyline"}
    assert page.tags <= {"div", "b", "table", "tr", "th", "td", "p", *drawing}
    assert not {name for name in page.attributes if name.startswith("on") or name == "href"}
    assert "<script>alert(1)</script>" in page.words
    assert not controls(page.words)


@pytest.mark.parametrize("form", ["yaml", "env"])
def test_a_comment_stays_a_comment(form: apply.Format) -> None:
    """Else ``eval "$(raytune-hpo best --format env)"`` would run the rest of a name."""
    run = MadeRun(experiment(objective={"metric": "loss\ntouch owned\n"}))
    run.start(0, {"x": 0.5})
    run.report(0, {"loss\ntouch owned\n": 1.0})
    run.end(0)
    head, *rest = apply.applied(run.state(), run.state().trials[0], form).splitlines()
    assert head.startswith("# demo")
    assert len(rest) == 1
    assert "owned" not in rest[0]


# Hostile experiment files

EVAL = {"eval": "open('owned', 'w')"}


@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": {"x": {"values": [EVAL]}}},
        {"parameters": {"x": {"min": EVAL, "max": 1}}},
        {"parameters": {"x": {"values": [["a", EVAL]]}}},
        {"parameters": {"x": {"grid_search": [1, 2]}}},
        {"search": {"algorithm": "tpe", "settings": EVAL}},
        {"search": {"algorithm": "tpe", "settings": {"candidates": EVAL}}},
        {"search": {"initial": [{"x": EVAL}]}},
        {"scheduler": {"algorithm": "asha", "settings": {"max_resource": EVAL}}},
        {"baseline": {"x": EVAL}},
        {"trials": EVAL},
        {"resources": {"custom": {"a": EVAL}}},
        {"mlflow": {"tags": {"a": EVAL}}},
        {"env": {"A": EVAL}},
        {"metrics": {"patterns": {"loss": EVAL}}},
    ],
)
def test_a_program_in_place_of_a_value_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        spec.loads(experiment(**fields))


def test_a_parameter_called_eval_is_a_text() -> None:
    """Ray Tune would execute it on the driver; tests/faults/test_secrets.py runs it."""
    made = spec.loads(experiment(parameters={"x": {"eval": EVAL["eval"]}, "y": {"values": [1, 2]}}))
    assert made.search_space.parameters["x.eval"].value == EVAL["eval"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": {"x": {"values": list(range(20_000))}}},
        {"parameters": {f"x{i}": {"min": 0.0, "max": 1.0} for i in range(500)}},
        {"constraints": [f"a{i} <= 1" for i in range(5_000)]},
        {"run": '"$(`' * 100_000},
        {"run": "${x} " * 100_000},
        {"objective": {"metric": "a" * 500_000}},
    ],
)
def test_a_file_within_the_limits_is_read_in_seconds(fields: dict[str, Any]) -> None:
    text = experiment(**fields)
    assert len(text) < document.MAX_BYTES
    began_s = time.thread_time()
    spec.loads(text)
    assert time.thread_time() - began_s < 30


@pytest.mark.parametrize(
    "name", ["../up", "/etc/x", "a/b", "..", ".", "", "-rf", "a\nb", "a\0b", "x" * 64, "A", "$(id)"]
)
def test_the_name_of_a_run_leaves_no_folder(name: str) -> None:
    with pytest.raises(SpecError):
        spec.loads(experiment(name=name))


@pytest.mark.parametrize("file", ["..yaml", "$(id).yaml", "-rf.yaml", "a b;c.yaml", "\u202ex.yaml"])
def test_the_name_of_a_file_gives_a_legal_name(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text(experiment(name=None))
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", spec.load(tmp_path / file).name)


@pytest.mark.parametrize(
    "name", ["a\nb", "--x", "$(id)", "a'b", 'a"b', "a b", "a;b", "{0.__class__}", "\x1b[2J", "a=b"]
)
def test_the_name_of_a_parameter_is_a_word(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.loads(experiment(parameters={name: {"min": 0.0, "max": 1.0}}))
    assert not controls(str(caught.value))


@pytest.mark.parametrize("metric", ["--help", "{0.__class__.__mro__}", "$(touch owned)", "%(x)s"])
def test_the_name_of_a_metric_is_no_more_than_a_name(metric: str) -> None:
    run = MadeRun(experiment(objective={"metric": metric}))
    run.start(0, {"x": 0.5})
    run.report(0, {metric: 1.0})
    run.end(0)
    assert run.state().trials[0].values == (1.0,)
    assert f"{metric}=1" in summary.summary(run.state(), Path("demo"))


@given(st.lists(st.text(min_size=1, max_size=30), unique=True, min_size=1, max_size=4))
def test_names_for_mlflow_are_legal_and_apart(names: list[str]) -> None:
    legal = Names()
    made = [legal.legal(name) for name in names]
    assert len(set(made)) == len(names)
    for name in made:
        assert not controls(name, "")
        assert not {"", ".", ".."} & set(name.split("/"))


@given(st.text(min_size=1, max_size=30))
def test_a_variable_has_a_name_that_a_shell_takes(name: str) -> None:
    made = command.variable(name)
    assert re.fullmatch(r"RAYTUNE_HPO_PARAM_\w*", made)


def test_a_note_of_many_names_is_whole_and_quick_to_make() -> None:
    names = {f"a{index}_": f"a{index}☃" for index in range(20_000)}
    began_s = time.thread_time()
    kept = json.loads(note(names))
    assert time.thread_time() - began_s < 20
    assert list(kept.items()) == list(names.items())[: len(kept)]
    assert len(kept) > 100


@pytest.mark.parametrize("words", [["check"], ["run", "--dry-run"], ["doctor"]])
def test_looking_at_a_file_executes_nothing_of_it(tmp_path: Path, words: list[str]) -> None:
    touch = "__import__('pathlib').Path('owned').touch()"
    (tmp_path / "trial.py").write_text(f"{touch}\ndef train(config): ...\n")
    function = experiment(run="trial:train", mlflow=False)
    shell = experiment(run="touch owned", setup="touch owned; $(touch owned)", mlflow=False)
    for number, text in enumerate((function, shell)):
        (tmp_path / f"{number}.yaml").write_text(text)
        command = [sys.executable, "-m", "raytune_hpo", *words, f"{number}.yaml"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert b"Traceback" not in done.stderr
        assert words == ["doctor"] or done.returncode == 0
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("key", ["\x1b]0;owned\x07", "a\u202eb", "x\ny"])
def test_messages_about_a_hostile_file_are_harmless(key: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.loads(experiment(**{key: 1, "description": [key]}), "demo.yaml")
    assert not controls(str(caught.value))
    with pytest.raises(SpecError) as caught:
        spec.loads(experiment(), "demo.yaml", [f"{key}=1"])
    assert not controls(str(caught.value))


def test_a_file_of_metrics_is_no_device() -> None:
    """Reading one to its end would take all memory."""
    assert FileSource(Path("/dev/zero"), _Nothing()).poll(last=True) == []


class _Nothing:
    """A collector that finds nothing."""

    def feed(self, line: str) -> list[Metrics]:
        """Return nothing."""
        return []

    def finish(self) -> list[Metrics]:
        """Return nothing."""
        return []


# Secrets

CANARY = "canary-4711"


@pytest.mark.parametrize(
    "text",
    [
        f"http://me:{CANARY}@host:5000/x",
        f"https://{CANARY}@github.com/o/r.git",
        f"http://me:a/b@{CANARY}@host",
        f"postgresql://me:{CANARY}/x@host/db",
        f"postgresql://host/db?password={CANARY}&sslmode=require",
        f"--set=env.HF_TOKEN={CANARY}",
        f"env={{API_KEY: {CANARY}}}",
        f'{{"api_key": "{CANARY} more {CANARY}"}}',
        f"Authorization: Bearer {CANARY}",
        f"aws_secret_access_key = '{CANARY} {CANARY}'",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    assert CANARY not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/#/experiments/1",
        "sqlite:////home/me@work/mlflow.db",
        "http://host:5000/a@b",
        "git@github.com:o/r.git",
        "run experiment.yaml --trials 5",
    ],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("piece", ["-a", "a", "://", "://a:", "token", 'token="', "token ", " "])
def test_long_texts_are_no_burden(piece: str) -> None:
    """A server's answer is looked through too: it took minutes when the time was quadratic."""
    began_s = time.thread_time()
    redact(piece * (100_000 // len(piece)))
    assert time.thread_time() - began_s < 20


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{CANARY}@host",
        f"http://{CANARY}@host",
        f"postgresql://me:{CANARY}@host/db",
        f"postgresql://host/db?user=me&password={CANARY}",
    ],
)
def test_the_address_of_a_store_holds_no_secret(uri: str) -> None:
    with pytest.raises(SpecError, match="must not hold a password"):
        spec.loads(experiment(mlflow={"uri": uri}))


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_surroundings_of_a_run_hold_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    remote = f"https://me:{CANARY}@github.com/o/r.git"
    subprocess.run([*git, "remote", "add", "origin", remote], check=True)
    monkeypatch.setattr(sys, "argv", ["raytune-hpo", "--set", f"env.HF_TOKEN={CANARY}"])
    monkeypatch.setenv("HF_TOKEN", CANARY)
    described = environment.describe(tmp_path)
    assert described["git"]["remote"] == "https://***@github.com/o/r.git"
    assert CANARY not in json.dumps(described)


@pytest.mark.parametrize(
    "override", [f"env.HF_TOKEN=[{CANARY}]", f"mlflow.uri=http://me:{CANARY}@host"]
)
def test_a_wrong_override_is_told_without_its_secret(override: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.loads(experiment(), "demo.yaml", [override])
    assert CANARY not in str(caught.value)


# Run directories of others


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return made_runs.minimize().write(tmp_path / "demo")


def _give_away(path: Path) -> None:
    os.chown(path, 12345, -1)


def _open_up(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def test_an_own_run_is_trusted(run_dir: Path) -> None:
    trust.check(run_dir)
    run_dir.chmod(0o2770)
    trust.check(run_dir)


@pytest.mark.parametrize("inside", ["", "journal", "journal/000001.jsonl"])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(_give_away, "belongs to the unknown user 12345", marks=needs_root),
        (_open_up, "can be written by everybody"),
    ],
)
def test_what_others_can_write_is_refused(
    run_dir: Path, inside: str, change: Callable[[Path], None], why: str
) -> None:
    change(run_dir / inside)
    with pytest.raises(RunError) as caught:
        trust.check(run_dir)
    assert str(caught.value).startswith(f"{run_dir / inside} {why}")
    assert "--trust" in str(caught.value)
    with pytest.raises(RunError, match="--trust"):
        session.resume_run(run_dir)


def test_a_run_of_somebody_else_is_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = run_dir.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:
        trust.check(run_dir)  # Whom root does not trust is lost anyway.
    else:
        with pytest.raises(RunError, match="belongs to user"):
            trust.check(run_dir)


@pytest.mark.parametrize("inside", ["", "journal", "journal/000001.jsonl"])
def test_a_link_is_looked_behind(run_dir: Path, tmp_path: Path, inside: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (run_dir / inside).rename(elsewhere)
    (run_dir / inside).symlink_to(elsewhere)
    trust.check(run_dir)
    _open_up(elsewhere)
    with pytest.raises(RunError, match="can be written by everybody"):
        trust.check(run_dir)


def test_looking_at_a_run_of_others_needs_no_trust(run_dir: Path) -> None:
    _open_up(run_dir)
    result = CliRunner().invoke(cli, ["status", str(run_dir)])
    assert result.exit_code == 0, result.output
    assert "demo" in result.output


# The package itself

PACKAGE = Path(raytune_hpo.__file__).parent
FOLDERS = ("searchers", "schedulers", "cluster", "slurm")
CALLS = frozenset({"eval", "exec", "compile", "__import__", "breakpoint", "input"})
MODULES = frozenset(
    {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib", "code", "runpy", "telnetlib"}
)
ATTRIBUTES = frozenset(
    {
        *("os.system", "os.popen", "tempfile.mktemp", "yaml.load", "yaml.load_all"),
        *("yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput", "ast.literal_eval"),
        *("subprocess.getstatusoutput", "torch.load", "numpy.load", "np.load", "pd.read_pickle"),
        *("pandas.read_pickle", "commands.getoutput", "pty.spawn"),
    }
)
ALLOWED: dict[tuple[str, str], str] = {}
"""By module and what it calls: why it may."""


def sources() -> dict[str, Path]:
    """Return every module of the package, by its name below the package or folder."""
    root = PACKAGE.parent
    places = [PACKAGE, *(root / folder for folder in FOLDERS)]
    found = {str(p.relative_to(root)): p for place in places for p in place.rglob("*.py")}
    return {name: path for name, path in found.items() if not path.parent.is_symlink()}


def dangers(tree: ast.AST) -> Iterator[str]:
    """Yield what in a module could execute what it was not meant to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            above = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (f"{above}{alias.name}" for alias in node.names):
                if name in ATTRIBUTES or MODULES & {*name.split(".")}:
                    yield name
        elif isinstance(node, ast.Attribute):
            if ast.unparse(node) in ATTRIBUTES or node.attr in ("cloudpickle", "pickle"):
                yield ast.unparse(node)
        elif isinstance(node, ast.Name) and node.id in CALLS and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.keyword) and node.arg == "shell":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield "shell="
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield "allow_pickle="


def test_the_package_executes_nothing_but_what_it_is_asked_to() -> None:
    found = {
        (name, danger)
        for name, path in sources().items()
        for danger in dangers(ast.parse(path.read_text()))
    }
    assert len(sources()) > 50
    assert found == set(ALLOWED)


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "f = exec",
        "import pickle",
        "from pickle import loads",
        "import ray.cloudpickle",
        "from ray import cloudpickle",
        "ray.cloudpickle.loads(x)",
        "import yaml\nyaml.load(x)",
        "from yaml import load",
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=flag)",
        "os.system(x)",
        "np.load(x, allow_pickle=True)",
    ],
)
def test_dangers_are_seen(text: str) -> None:
    assert list(dangers(ast.parse(text)))


def test_states_are_json(run_dir: Path) -> None:
    """What is read back on a resume is text that nothing but a JSON reader sees."""
    for line in (run_dir / "journal/000001.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict)
    assert RunState.replay(made_runs.minimize().records).trials
