"""Checkpoints and output in a store: whole or not there, whatever dies on the way."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import checkpoints as local
from raytune_hpo.attempt import Assignment, Event, Job, begin
from raytune_hpo.errors import StoreError
from raytune_hpo.storage import checkpoints, keeper, objects, outputs, place
from raytune_hpo.storage.keeper import Keeper
from raytune_hpo.storage.objects import Objects
from raytune_hpo.trial import FailureKind
from tests.storage.s3 import Server

PLACE = "trials/0003/checkpoints/001-000001"


@pytest.fixture
def there(bucket: str) -> Objects:
    return objects.open_at(f"{bucket}/runs/demo")


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a checkpoint with all that one may have in it."""
    folder = tmp_path / "here" / "001-000001"
    (folder / "a folder" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 4000)
    (folder / "a folder" / "deep" / "ä*?[x] #%").write_text("odd")
    (folder / "nothing").touch()
    (folder / "run.sh").write_text("true")
    (folder / "run.sh").chmod(0o755)
    return folder


def test_a_checkpoint_comes_back_as_it_was(there: Objects, saved: Path, tmp_path: Path) -> None:
    assert not checkpoints.exists(there, PLACE)
    assert checkpoints.upload(there, saved, PLACE)
    assert checkpoints.exists(there, PLACE)
    back = tmp_path / "elsewhere" / "001-000001"
    assert checkpoints.download(there, PLACE, back)
    assert tree(back) == tree(saved)
    assert (back / "run.sh").stat().st_mode & 0o777 == 0o755
    assert not checkpoints.download(there, PLACE.replace("000001", "000002"), tmp_path / "none")


def test_what_is_here_already_is_not_brought_again(s3: Server, there: Objects, saved: Path) -> None:
    checkpoints.upload(there, saved, PLACE)
    s3.requests.clear()
    assert checkpoints.download(there, PLACE, saved)
    assert len(s3.requests) == 1


def test_another_checkpoint_of_the_same_name_here_is_replaced(
    there: Objects, saved: Path, tmp_path: Path
) -> None:
    checkpoints.upload(there, saved, PLACE)
    here = tmp_path / "elsewhere" / "001-000001"
    here.mkdir(parents=True)
    (here / "of a worker that died").touch()
    assert checkpoints.download(there, PLACE, here)
    assert tree(here) == tree(saved)


def test_an_upload_that_is_torn_does_not_count(
    s3: Server, bucket: str, saved: Path, tmp_path: Path
) -> None:
    """The store goes away in the middle; the next worker uploads under the same name."""
    there = objects.open_at(f"{bucket}/runs/demo", patience=0.0)
    s3.requests.clear()
    upload = Objects.upload

    def go_away(self: Objects, path: Path, key: str) -> None:
        if "weights" in key:
            while len(there.list(PLACE)) < 3:
                time.sleep(0.02)
            s3.lose_requests = 1000
        upload(self, path, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objects, "upload", go_away)
        with pytest.raises(StoreError):
            checkpoints.upload(there, saved, PLACE)
    assert there.list(PLACE) != []
    assert not checkpoints.exists(there, PLACE)
    assert not checkpoints.download(there, PLACE, tmp_path / "back")
    s3.calm()
    assert checkpoints.upload(there, saved, PLACE)
    assert checkpoints.download(there, PLACE, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(saved)


def test_a_manifest_without_its_files_does_not_count(
    there: Objects, saved: Path, tmp_path: Path
) -> None:
    checkpoints.upload(there, saved, PLACE)
    key = next(key for key in there.list(PLACE) if "weights" in key)
    whole = there.get(key) or b""
    for left in (whole[:-1], None):
        there.delete([key])
        if left is not None:
            there.put(key, left)
        assert not checkpoints.download(there, PLACE, tmp_path / "back")
        assert not (tmp_path / "back").exists()


def test_a_name_is_taken_by_the_first_of_two(there: Objects, saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "x").write_text("of the other")
    assert checkpoints.upload(there, other, PLACE)
    before = there.list("trials")
    assert not checkpoints.upload(there, saved, PLACE)
    assert there.list("trials") == before
    checkpoints.download(there, PLACE, tmp_path / "back")
    assert tree(tmp_path / "back") == {"x": b"of the other"}


def test_a_copy_stays_when_the_original_is_pruned(
    there: Objects, saved: Path, tmp_path: Path
) -> None:
    checkpoints.upload(there, saved, PLACE)
    target = "trials/0009/checkpoints/000-000001"
    assert checkpoints.copy(there, PLACE, target)
    assert checkpoints.copy(there, PLACE, target)
    checkpoints.prune(there, "trials/0003", 0, "001-000001")
    assert there.list("trials/0003") == []
    assert not checkpoints.copy(there, PLACE, target)
    assert checkpoints.download(there, target, tmp_path / "back")
    assert tree(tmp_path / "back") == tree(saved)


def test_pruning_keeps_the_newest_and_takes_what_is_torn(
    s3: Server, there: Objects, saved: Path
) -> None:
    def name(attempt: int, number: int) -> str:
        return f"{attempt:03d}-{number:06d}"

    folder = "trials/0003/checkpoints"
    for attempt, number in ((1, 1), (1, 2), (2, 1), (2, 2), (2, 3)):
        checkpoints.upload(there, saved, f"{folder}/{name(attempt, number)}")
    there.put(f"{folder}/{name(1, 3)}/abcd/torn", b"x")
    there.put(f"{folder}/{name(2, 4)}/abcd/in progress", b"x")
    s3.requests.clear()
    checkpoints.prune(there, "trials/0003", 2, name(2, 2))
    left = {key.split("/")[3].removesuffix(".json") for key in there.list(folder)}
    assert left == {name(2, 1), name(2, 2), name(2, 3), name(2, 4)}
    for place_ in (name(2, 1), name(2, 2), name(2, 3)):
        assert checkpoints.exists(there, f"{folder}/{place_}")


def test_half_deleted_checkpoints_have_no_manifest(s3: Server, bucket: str, saved: Path) -> None:
    there = objects.open_at(f"{bucket}/runs/demo", patience=0.0)
    checkpoints.upload(there, saved, PLACE)
    s3.requests.clear()
    with pytest.MonkeyPatch.context() as patch:
        calls: list[list[str]] = []
        delete = Objects.delete

        def only_once(self: Objects, keys: Any) -> None:
            calls.append(list(keys))
            if len(calls) == 1:
                delete(self, calls[0])

        patch.setattr(Objects, "delete", only_once)
        checkpoints.prune(there, "trials/0003", 0, "001-000001")
    assert not checkpoints.exists(there, PLACE)
    assert there.list(PLACE) != []
    checkpoints.prune(there, "trials/0003", 0, "001-000001")
    assert there.list("trials") == []


def test_a_manifest_cannot_lead_out_of_its_folder(there: Objects, tmp_path: Path) -> None:
    there.put("x", b"evil")
    for path in ("../out", "/tmp/out", "a/../../out"):
        entry = {"kind": "file", "path": path, "size": 4, "mode": 0o644, "key": "x"}
        there.put(f"{PLACE}.json", json.dumps({"content": [entry]}).encode())
        with pytest.raises(StoreError, match="outside of its folder"):
            checkpoints.download(there, PLACE, tmp_path / "back")
    assert not (tmp_path / "out").exists()


# What an attempt does


def job(url: str, run: str, **more: Any) -> Job:
    settings: dict[str, Any] = {
        "run_dir": Path("/nowhere"),
        "run": run,
        "function": None,
        "single_metric": None,
        "folder": Path.cwd(),
        "workdir": None,
        "env": {},
        "setup": None,
        "time_limit_s": None,
        "silent_limit_s": None,
        "keep_checkpoints": 1,
        "url": url,
        "run_id": "an-id",
        **more,
    }
    return Job(**settings)


def execute(job: Job, assignment: Assignment) -> list[Event]:
    running = begin(job, assignment)
    events: list[Event] = []
    while not events or not events[-1].is_end:
        events += running.events(5.0)
    running.stop()
    return events


STEPS = """
echo step of $RAYTUNE_HPO_ATTEMPT
if [ -n "$RAYTUNE_HPO_CHECKPOINT" ]; then cat "$RAYTUNE_HPO_CHECKPOINT/step"; fi
for step in 1 2; do
  mkdir -p own && echo $RAYTUNE_HPO_ATTEMPT.$step > own/step
  printf '{"metrics": {"loss": 1}, "checkpoint": "own"}\\n' >> "$RAYTUNE_HPO_REPORT_FILE"
  sleep 0.3
done
"""


def test_an_attempt_goes_on_on_a_machine_that_has_nothing(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/runs/demo"
    there = objects.open_at(url)
    first = execute(job(url, STEPS), Assignment(3, 1, {}))
    assert [event.failure for event in first] == [None] * 3
    last = first[-2].checkpoint
    assert last == "trials/0003/checkpoints/001-000002"
    monkeypatch.setenv(place.CACHE_ENV, str(tmp_path / "another machine"))
    again = execute(job(url, STEPS), Assignment(3, 2, {}, checkpoint=last))
    assert again[-2].checkpoint == "trials/0003/checkpoints/002-000002"
    assert checkpoints.exists(there, again[-2].checkpoint)
    reader = outputs.Reader(there, "0003", tmp_path / "stdout.log")
    assert reader.pull()
    assert (tmp_path / "stdout.log").read_text() == (
        "step of 1\n--- attempt 2 ---\nstep of 2\n1.2\n"
    )


@pytest.mark.parametrize("finished", [True, False])
def test_old_checkpoints_go_here_and_in_the_store(
    bucket: str, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine that does other work the store may take longer than a trial should wait.
    monkeypatch.setattr(keeper, "_PRUNE_PATIENCE_S", 60.0)
    url = f"{bucket}/runs/demo"
    run = STEPS if finished else f"{STEPS}exit 3\n"
    execute(job(url, run), Assignment(3, 1, {}))
    names = {key.split("/")[3] for key in objects.open_at(url).list("trials/0003")}
    assert names == {"001-000002", "001-000002.json"}
    here = place.working_copy(url) / "trials" / "0003" / "checkpoints"
    # A trial that is done needs none of them here any more.
    left = {path.name for path in here.glob("*")}
    assert left == (set() if finished else names)


def test_an_attempt_of_a_number_that_was_lost_takes_other_names(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver died before its ``start`` was in the store, and the attempt ran all the same."""
    url = f"{bucket}/runs/demo"
    execute(job(url, STEPS, keep_checkpoints=9), Assignment(3, 1, {}))
    monkeypatch.setenv(place.CACHE_ENV, str(tmp_path / "another machine"))
    events = execute(job(url, STEPS, keep_checkpoints=9), Assignment(3, 1, {}))
    assert [event.checkpoint for event in events[:2]] == [
        "trials/0003/checkpoints/001-000003",
        "trials/0003/checkpoints/001-000004",
    ]


def test_a_checkpoint_that_the_store_does_not_take_stops_the_run_and_fails_no_trial(
    s3: Server, bucket: str
) -> None:
    url = f"{bucket}/runs/demo"
    s3.refuse_writes = True
    events = execute(job(url, STEPS), Assignment(3, 1, {}))
    assert events[-1].failure is not None
    assert events[-1].failure.kind is FailureKind.STORAGE
    assert "Access Denied" in events[-1].failure.message


FUNCTION = """
import raytune_hpo as rh

def train(config):
    try:
        with open("step", "w") as file:
            file.write("1")
        rh.report(loss=1.0, checkpoint="step")
    except Exception:
        open("swallowed", "w").close()
"""


def test_no_function_can_swallow_that(
    s3: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_a_store.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    url = f"{bucket}/runs/demo"
    s3.refuse_writes = True
    events = execute(job(url, "of_a_store:train", folder=tmp_path), Assignment(3, 1, {}))
    assert events[-1].failure is not None
    assert events[-1].failure.kind is FailureKind.STORAGE
    assert not list(place.working_copy(url).rglob("swallowed"))


def test_waiting_for_the_store_is_no_silence(s3: Server, bucket: str) -> None:
    url = f"{bucket}/runs/demo"
    running = begin(job(url, STEPS, silent_limit_s=4.0), Assignment(3, 1, {}))
    events: list[Event] = []
    while not events:
        events += running.events(0.2)
    with s3.away():
        for _ in range(25):
            events += running.events(0.2)
    while not events[-1].is_end:
        events += running.events(0.2)
    running.stop()
    assert [event.failure for event in events] == [None] * 3


def test_another_run_of_the_same_url_finds_nothing_of_the_last_one(bucket: str) -> None:
    url = f"{bucket}/runs/demo"
    run_dir = place.working_copy(url)
    keeper.settle(run_dir, url, "one")
    (run_dir / "trials").mkdir()
    keeper.settle(run_dir, url, "one")
    assert (run_dir / "trials").exists()
    keeper.settle(run_dir, url, "two")
    assert not (run_dir / "trials").exists()
    assert place.url_of(run_dir) == url


def test_output_that_was_there_before_is_not_brought_again(bucket: str, tmp_path: Path) -> None:
    there = objects.open_at(f"{bucket}/runs/demo")
    log = tmp_path / "stdout.log"
    log.write_text("of before\n")
    uploader = outputs.Uploader(there, "0003", 2, tmp_path, ["stdout.log", "stderr.log"])
    with log.open("a") as file:
        file.write("one\n")
    uploader.close()
    reader = outputs.Reader(there, "0003", tmp_path / "read" / "stdout.log")
    assert reader.pull()
    assert (tmp_path / "read" / "stdout.log").read_text() == "one\n"
    assert not outputs.Reader(there, "0003", tmp_path / "read" / "stderr.log").pull()
    assert outputs.owners(there, "stdout.log") == ["0003"]


def test_output_grows_while_it_is_read(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "_FIRST_WAIT_S", 0.1)
    monkeypatch.setattr(outputs, "_MOST_BYTES", 5)
    there = objects.open_at(f"{bucket}/runs/demo")
    uploader = outputs.Uploader(there, "driver", 1, tmp_path, ["driver.log"])
    reader = outputs.Reader(there, "driver", tmp_path / "read" / "driver.log")
    expected = ""
    for number in range(3):
        expected += f"line {number}\n"
        (tmp_path / "driver.log").write_text(expected)
        while (tmp_path / "read" / "driver.log").read_text() != expected:
            reader.pull()
    uploader.close()


def test_output_is_no_reason_to_fail(s3: Server, bucket: str, tmp_path: Path) -> None:
    there = objects.open_at(f"{bucket}/runs/demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "_LAST_PATIENCE_S", 0.5)
        uploader = outputs.Uploader(there, "0003", 1, tmp_path, ["stdout.log"])
        (tmp_path / "stdout.log").write_text("lost")
        with s3.away():
            uploader.close()


def test_a_keeper_needs_no_local_checkpoint_to_go_on(bucket: str, tmp_path: Path) -> None:
    url = f"{bucket}/runs/demo"
    run_dir = place.working_copy(url)
    made = Keeper(url, run_dir, 3, 1, lambda: False)
    trial = run_dir / "trials" / "0003"
    trial.mkdir(parents=True)
    (tmp_path / "step").write_text("5")
    saved = made.keep(local.save(tmp_path / "step", trial, 1))
    shutil.rmtree(run_dir)
    made.fetch(str(saved.relative_to(run_dir)))
    assert (saved / "step").read_text() == "5"
    made.close(finished=False)
    assert saved.exists()
