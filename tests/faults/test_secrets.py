"""A real driver with a Ray of its own: where its secrets are, what it listens on, who gets in."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from raytune_hpo import journal
from raytune_hpo.state import RunState
from tests.faults.test_driver import finish, start
from tests.golden import made_runs

pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BY_NAME, IN_FILE, ON_COMMAND_LINE = "canary-by-name", "canary-in-file", "canary-on-command-line"
USER, PASSWORD, REMOTE = "canary-user", "canary-password", "canary-remote"
RUN_DIR = Path("raytune-results/experiment")
CANARIES = (BY_NAME, IN_FILE, ON_COMMAND_LINE, USER, PASSWORD, REMOTE)
EVAL = "open('owned', 'w')"
EXPERIMENT = f"""
run: trial:train
objective: {{metric: found}}
parameters:
  x: {{eval: "{EVAL}"}}
  y: {{values: [1, 2]}}
trials: 2
parallel: 1
resources: {{cpu: 0.5}}
env:
  HF_TOKEN: {{from_env: MY_SECRET}}
  API_KEY: {IN_FILE}
"""
TRIAL = f"""
import os
import time
from pathlib import Path
import raytune_hpo as rh

def train(config):
    secrets = (os.environ["HF_TOKEN"], os.environ["API_KEY"], os.environ["DB_PASSWORD"])
    right = secrets == ("{BY_NAME}", "{IN_FILE}", "{ON_COMMAND_LINE}")
    rh.report(found=int(right and config["x"]["eval"] == "{EVAL}"))
    while not Path(os.environ["RAYTUNE_HPO_FOLDER"], "go").exists():
        time.sleep(0.05)
"""


@dataclass(frozen=True)
class Process:
    """What others can see of a process, and what only its user can."""

    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    listening: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Observed:
    """What was found of a driver in the middle of its run, and after it.

    Attributes:
        folder: The experiment's, with run directory and MLflow store; still there.
        temporary: Held all temporary files of the driver and of Ray.
        processes: The driver, first, and all its descendants.
        token_path: Ray's token.
        token: Its text.
        modes: Of files and folders, by path.
        holding: Files among the temporary ones that hold a secret, and which.
        answers: Of Ray's head, to nobody, to a wrong token and to the right one.
        output: What the driver printed.
        exit_code: Of the driver.
    """

    folder: Path
    temporary: Path
    processes: tuple[Process, ...]
    token_path: Path
    token: str
    modes: dict[Path, int]
    holding: set[tuple[str, str]]
    answers: tuple[grpc.StatusCode, ...]
    output: str
    exit_code: int


def _observed(driver: subprocess.Popen[str], folder: Path, temporary: Path) -> Observed:
    """Look at a driver while its first trial waits, and let it come to its end."""
    processes = tuple(map(_process, _tree(driver.pid)))
    token_path = Path(_value("RAY_AUTH_TOKEN_PATH", [p.environment for p in processes]))
    address = _value("--gcs-address", [p.arguments for p in processes])
    token = token_path.read_text()
    looked_at = [token_path, *(path for path in temporary.iterdir() if path.is_dir())]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in looked_at}
    found = holding(temporary, (*CANARIES, token))
    answers = tuple(_asks(address, said) for said in (None, "0" * 64, token))
    (folder / "go").touch()
    output = finish(driver)
    return Observed(
        folder=folder,
        temporary=temporary,
        processes=processes,
        token_path=token_path,
        token=token,
        modes=modes,
        holding=found,
        answers=answers,
        output=output,
        exit_code=driver.returncode,
    )


def _process(pid: int) -> Process:
    return Process(_words(pid, "cmdline"), _words(pid, "environ"), tuple(_listening(pid)))


def _value(name: str, of_each: Iterable[tuple[str, ...]]) -> str:
    """Return the value of the first ``name=value`` among the words of all processes."""
    words = (word for words in of_each for word in words)
    return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = children.read_text().split()
        except OSError:
            continue
        for child in below:
            yield from _tree(int(child))


def _words(pid: int, file: str) -> tuple[str, ...]:
    try:
        text = Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace")
    except OSError:
        return ()
    return tuple(text.split("\0"))


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    """Run a driver that is given secrets in all ways there are."""
    base = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    folder, temporary = base / "e", base / "t"
    for made in (folder, temporary):
        made.mkdir()
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    (folder / "trial.py").write_text(TRIAL)
    _make_repository(folder)
    ours = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = {
        **ours,
        "TMPDIR": str(temporary),
        "MY_SECRET": BY_NAME,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    }
    words = ["run", "experiment.yaml", "--set", f"env.DB_PASSWORD={ON_COMMAND_LINE}"]
    driver = start(folder, environment, *words)
    try:
        _wait_for_report(driver, folder / RUN_DIR)
        yield _observed(driver, folder, temporary)
    finally:
        if driver.poll() is None:
            driver.terminate()
            finish(driver)
        shutil.rmtree(base)


def _make_repository(folder: Path) -> None:
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    remote = f"https://me:{REMOTE}@example.org/o/r.git"
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    subprocess.run([*git, "remote", "add", "origin", remote], check=True)


def _wait_for_report(driver: subprocess.Popen[str], run_dir: Path) -> None:
    deadline = time.monotonic() + 300
    while not (journal.exists(run_dir) and any(map(_is_report, journal.read(run_dir)))):
        assert driver.poll() is None, finish(driver)
        assert time.monotonic() < deadline, "no report within 300 s"
        time.sleep(0.1)


def _is_report(record: journal.Record) -> bool:
    return bool(record["type"] == "report")


def holding(folder: Path, words: tuple[str, ...]) -> set[tuple[str, str]]:
    """Return the files below a folder that hold one of some words, and the word."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        found |= {(str(path), word) for word in words if word.encode() in content}
    return found


@pytest.mark.ray
def test_no_process_shows_a_secret(observed: Observed) -> None:
    driver, *others = observed.processes
    assert len(others) > 4
    secrets = (*CANARIES, observed.token)
    shown = [w for p in others for line in p.arguments for w in secrets if w in line]
    assert not shown
    # What a person types is there for everybody: docs/security.md says so.
    assert {w for line in driver.arguments for w in secrets if w in line} == {ON_COMMAND_LINE}
    everything = [line for process in observed.processes for line in process.environment]
    assert not [line for line in everything if observed.token in line]


@pytest.mark.ray
def test_the_token_and_the_files_of_ray_are_for_this_user_only(observed: Observed) -> None:
    token, folders = observed.token_path, dict(observed.modes)
    assert len(observed.token) == 64
    assert folders.pop(token) == 0o600
    # Of the token, and of Ray, which opens what is inside to everybody: nobody else gets there.
    assert len(folders) >= 2
    assert token.parent in folders
    assert set(folders.values()) == {0o700}, folders
    assert not token.exists()


@pytest.mark.ray
def test_all_ports_are_on_the_loopback_address(observed: Observed) -> None:
    listening = [where for process in observed.processes for where in process.listening]
    assert len(listening) > 4
    assert not [(host, port) for host, port in listening if not _is_loopback(host)]


@pytest.mark.ray
def test_the_dashboard_is_off(observed: Observed) -> None:
    heads = [p for p in observed.processes if any("dashboard.py" in a for a in p.arguments)]
    assert heads
    assert all("--disable-frontend" in process.arguments for process in heads)


@pytest.mark.ray
def test_nobody_gets_in_without_the_token(observed: Observed) -> None:
    refused = grpc.StatusCode.UNAUTHENTICATED
    assert observed.answers == (refused, refused, grpc.StatusCode.OK)


@pytest.mark.ray
def test_no_file_holds_a_secret(observed: Observed) -> None:
    """Ray's files while it ran, since it takes them along, and all others at the end."""
    assert observed.exit_code == 0, observed.output
    assert observed.holding == {(str(observed.token_path), observed.token)}
    folder = observed.folder
    made_by_user = (folder / "experiment.yaml", folder / "trial.py", folder / ".git/config")
    held = {path for path, _ in holding(folder, CANARIES) if "__pycache__" not in path}
    assert held == set(map(str, made_by_user))
    assert not holding(folder / RUN_DIR, CANARIES)
    assert (folder / RUN_DIR / "experiment.yaml").exists()
    assert (folder / "mlflow.db").exists()
    assert not [word for word in CANARIES if word in observed.output]


@pytest.mark.ray
def test_trials_get_secrets_and_a_value_called_eval_as_they_are(observed: Observed) -> None:
    state = RunState.replay(journal.read(observed.folder / RUN_DIR))
    assert [trial.values for trial in state.trials.values()] == [(1.0,), (1.0,)]
    assert not list(observed.folder.rglob("owned"))


def _listening(pid: int) -> Iterator[tuple[str, int]]:
    """Yield the addresses on which a process takes connections."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            inodes.add(str(descriptor.readlink()))
        except OSError:
            continue
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                address, _, port = local.partition(":")
                yield _host(address), int(port, 16)


def _host(written: str) -> str:
    """Return the address that the kernel writes as words of 32 bits in its own byte order."""
    raw = bytes.fromhex(written)
    swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, swapped)


def _is_loopback(host: str) -> bool:
    address = ip_address(host)
    inner = getattr(address, "ipv4_mapped", None)
    return (inner or address).is_loopback


def _asks(address: str, token: str | None) -> grpc.StatusCode:
    """Ask the head of a Ray for its nodes, and return what it answers."""
    said = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        try:
            ask(b"", metadata=said, timeout=20, wait_for_ready=True)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@pytest.mark.mlflow
def test_the_password_of_a_store_is_written_nowhere(tmp_path: Path) -> None:
    run_dir = made_runs.minimize().write(tmp_path / "raytune-results/demo")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        uri = f"http://{USER}:{PASSWORD}@127.0.0.1:{nobody.getsockname()[1]}"
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        outputs = [
            finish(start(tmp_path, environment, *words))
            for words in (("mlflow", "sync", "demo"), ("status", "demo"), ("doctor", "demo"))
        ]
    assert not [word for word in CANARIES for output in outputs if word in output]
    assert all("127.0.0.1" in output for output in outputs[1:])
    assert not holding(run_dir, CANARIES)
