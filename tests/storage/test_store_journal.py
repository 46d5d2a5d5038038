"""The journal of a run in a store, as its driver and as those who look at it see it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import journal, lock
from raytune_hpo.errors import JournalError, RunError, RunLockedError, StoreError
from raytune_hpo.storage import homes, objects, place, presence, reading, segments
from raytune_hpo.storage.backends import InMemory
from raytune_hpo.storage.homes import InStore
from raytune_hpo.storage.journal import StoreJournal
from tests.storage.s3 import Server

URL = "memory://bucket/runs/demo"


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    yield
    InMemory.content.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the experiment's folder."""
    made = tmp_path / "experiment"
    made.mkdir()
    return made


def silent(text: str) -> None:
    """Take note of nothing."""


def begin(log: Any, folder: Path, run_id: str = "an-id") -> None:
    header(log, folder, run_id)
    session(log, log.url)


def header(log: Any, folder: Path, run_id: str) -> None:
    spec = {"run": "true", "objective": {"metric": "x"}, "parameters": {"a": {"min": 0, "max": 1}}}
    log.append(
        "experiment",
        version=1,
        id=run_id,
        name="demo",
        spec=spec,
        seed=1,
        algorithm="random",
        scheduler="none",
        folder=str(folder),
        cwd=str(folder),
    )


def note(log: Any, index: int) -> None:
    log.append("trial", trial=index, config={"a": 0.5}, origin="search")


def session(log: Any, url: str, number: int = 1) -> None:
    log.append(
        "session",
        session=number,
        host="a",
        pid=1,
        run_dir=url,
        trials=3,
        parallel=1,
        resources={"CPU": 1.0},
    )
    log.sync()


def began(url: str, folder: Path, notes: int = 3) -> None:
    """Make a run with a header, a session and some notes."""
    with InStore(url, folder).held(silent) as log:
        begin(log, folder)
        for index in range(notes):
            note(log, index)
        log.sync()


def indices(records: list[journal.Record]) -> list[int]:
    return [record["trial"] for record in records if record["type"] == "trial"]


def read(url: str) -> list[journal.Record]:
    return journal.read(reading.pull(url))


def test_what_is_synced_is_in_the_store_and_in_the_copy(folder: Path) -> None:
    with InStore(URL, folder).held(silent) as log:
        begin(log, folder)
        note(log, 7)
        assert indices(read(URL)) == []
        assert indices(journal.read(log.run_dir)) == []
        log.sync()
        assert indices(read(URL)) == [7]
        assert indices(journal.read(log.run_dir)) == [7]
    assert journal.read(log.run_dir) == read(URL)


def test_records_that_come_together_share_an_object(folder: Path) -> None:
    with InStore(URL, folder).held(silent) as log:
        begin(log, folder)
        before = len(objects.open_at(URL).list("journal"))
        for index in range(50):
            note(log, index)
        log.sync()
        assert len(objects.open_at(URL).list("journal")) == before + 1


def test_the_next_driver_goes_on_where_the_last_one_was(folder: Path) -> None:
    began(URL, folder)
    with InStore(URL, folder).held(silent) as log:
        assert indices(log.records_at_open) == [0, 1, 2]
        session(log, URL, 2)
        note(log, 3)
    assert [record["n"] for record in read(URL)] == list(range(7))
    assert indices(read(URL)) == [0, 1, 2, 3]


def test_a_copy_that_is_gone_or_behind_or_ahead_is_made_anew(folder: Path) -> None:
    began(URL, folder)
    run_dir = place.working_copy(URL)
    for harm in (_nothing, _lose_the_journal, _lose_all, _add_a_record, _cut_a_record):
        harm(run_dir)
        with InStore(URL, folder).held(silent) as log:
            assert indices(log.records_at_open) == [0, 1, 2]
            assert indices(journal.read(run_dir)) == [0, 1, 2]


def _nothing(run_dir: Path) -> None:
    assert journal.exists(run_dir)


def _lose_the_journal(run_dir: Path) -> None:
    for path in journal.segments(run_dir):
        path.unlink()


def _lose_all(run_dir: Path) -> None:
    import shutil

    shutil.rmtree(run_dir)


def _add_a_record(run_dir: Path) -> None:
    path = journal.segments(run_dir)[-1]
    with path.open("ab") as file:
        file.write(journal.encode({"n": 5, "t": 0.0, "type": "trial", "trial": 666}))


def _cut_a_record(run_dir: Path) -> None:
    path = journal.segments(run_dir)[-1]
    os.truncate(path, path.stat().st_size - 5)


def test_a_copy_of_another_run_of_the_same_name_is_deleted(folder: Path) -> None:
    began(URL, folder)
    left = place.working_copy(URL) / "trials" / "0000" / "work" / "left"
    left.parent.mkdir(parents=True)
    left.touch()
    read(URL)
    with InStore(URL, folder).held(silent):
        assert left.exists()
    InMemory.content.clear()
    began(URL, folder, notes=1)
    assert not left.exists()
    assert indices(read(URL)) == [0]


def test_a_journal_that_is_gone_where_trials_ran_is_no_new_start(folder: Path) -> None:
    began(URL, folder)
    there = objects.open_at(URL)
    there.put("trials/0000/checkpoints/001-000001.json", b"{}")
    there.delete([*there.list("journal"), *there.list("sessions")])
    with (
        pytest.raises(JournalError, match="holds no journal, though trials ran here"),
        InStore(URL, folder).held(silent),
    ):
        pass


def test_a_header_under_which_nothing_ran_is_written_anew(folder: Path) -> None:
    with InStore(URL, folder).held(silent) as log:
        header(log, folder, "first")
    before = read(URL)
    assert [record["id"] for record in before] == ["first"]
    with InStore(URL, folder).held(silent) as log:
        assert [record["type"] for record in log.records_at_open] == ["experiment"]
        log.start_over()
        begin(log, folder, "second")
        assert journal.read(log.run_dir) == read(URL)
    assert [record["n"] for record in read(URL)] == [0, 1]
    assert read(URL)[0]["id"] == "second"


# Many batches


@pytest.fixture
def short_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a driver go on in a new session after three batches."""
    monkeypatch.setattr(segments, "ROLL", 3)


@pytest.mark.usefixtures("short_sessions")
def test_a_long_run_is_read_by_few_requests(folder: Path) -> None:
    with InStore(URL, folder).held(silent) as log:
        begin(log, folder)
        for index in range(20):
            note(log, index)
            log.sync()
        assert journal.read(log.run_dir) == read(URL)
    there = objects.open_at(URL)
    assert segments.sessions(there) == list(range(1, 8))
    wholes = [key for key in there.list("journal") if key.count("/") == 1]
    assert len(wholes) == 6
    assert indices(read(URL)) == list(range(20))
    follower = journal.Follower(place.working_copy(URL))
    assert indices(follower.poll()) == list(range(20))
    with InStore(URL, folder).held(silent) as log:
        assert indices(log.records_at_open) == list(range(20))


@pytest.mark.usefixtures("short_sessions")
def test_a_reader_brings_only_what_is_new(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []
    get = InMemory.get

    def noted(self: InMemory, key: str) -> bytes:
        got.append(key)
        return get(self, key)

    with InStore(URL, folder).held(silent) as log:
        begin(log, folder)
        for index in range(20):
            note(log, index)
            log.sync()
        read(URL)
        note(log, 20)
        log.sync()
        monkeypatch.setattr(InMemory, "get", noted)
        assert indices(read(URL)) == list(range(21))
    assert len([key for key in got if key.startswith("journal/")]) <= 4


# Two drivers


def test_a_second_driver_is_refused_with_who_holds_the_run(folder: Path) -> None:
    with InStore(URL, folder).held(silent) as log:
        begin(log, folder)
        with (
            pytest.raises(RunLockedError, match=rf"process {os.getpid()} on .* stop {URL}"),
            InStore(URL, folder).held(silent),
        ):
            pass
        note(log, 1)
        log.sync()
    assert indices(read(URL)) == [1]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes this process believe that earlier drivers are of another machine."""
    return lambda: monkeypatch.setattr(lock, "is_here", lambda who: False)


def test_a_driver_of_another_machine_is_refused_while_the_first_lives(
    folder: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with InStore(URL, folder).held(silent) as log:
        begin(log, folder)
        elsewhere()
        monkeypatch.setattr(presence, "LEASE_S", 60.0)
        with pytest.raises(RunLockedError), InStore(URL, folder).held(silent):
            pass


def test_a_silent_driver_of_another_machine_is_replaced_and_finds_out(
    folder: Path, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "BEAT_S", 1000.0)
    with InStore(URL, folder).held(silent) as old:
        begin(old, folder)
        elsewhere()
        with InStore(URL, folder).held(silent) as new:
            note(old, 666)
            with pytest.raises(RunLockedError, match="another driver has taken this run over"):
                old.sync()
            with pytest.raises(RunLockedError):
                note(old, 667)
            session(new, URL, 2)
            note(new, 1)
            new.sync()
        assert indices(read(URL)) == [1]
    with InStore(URL, folder).held(silent) as log:
        assert indices(log.records_at_open) == [1]


def test_an_idle_driver_that_was_replaced_finds_out_without_writing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with InStore(URL, folder).held(silent) as old:
        begin(old, folder)
        monkeypatch.setenv(lock.SUCCESSOR_ENV, "1")
        with InStore(URL, folder).held(silent):
            wait_until(lambda: raises(old.sync, RunLockedError))


def raises(call: Callable[[], object], error: type[Exception]) -> bool:
    try:
        call()
    except error:
        return True
    return False


def wait_until(there: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not there():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_successor_takes_over_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with InStore(URL, folder).held(silent) as old:
        begin(old, folder)
        note(old, 0)
        old.sync()
        monkeypatch.setenv(lock.SUCCESSOR_ENV, "1")
        with InStore(URL, folder).held(silent) as new:
            assert lock.SUCCESSOR_ENV not in os.environ
            assert indices(new.records_at_open) == [0]
            note(old, 666)
            with pytest.raises(RunLockedError):
                old.sync()
    assert indices(read(URL)) == [0]


def test_of_two_that_claim_at_the_same_moment_one_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "sessions", lambda there: [])
    with (
        InStore(URL, folder).held(silent),
        pytest.raises(RunLockedError, match="claims this run at this moment"),
        InStore(URL, folder).held(silent),
    ):
        pass


def test_who_drives_a_run_is_told_while_somebody_does(folder: Path) -> None:
    with InStore(URL, folder).held(silent) as log:
        begin(log, folder)
        who = reading.holder(URL)
        assert who is not None
        assert who["pid"] == os.getpid()
    assert reading.holder(URL) is None


def test_a_wish_to_stop_reaches_the_driver_and_not_the_next_one(folder: Path) -> None:
    with InStore(URL, folder).held(silent) as log:
        begin(log, folder)
        reading.request_stop(URL)
        wait_until((log.run_dir / "stop").exists)
    # The driver takes it away as soon as it has seen it; until its end it may be told again.
    (log.run_dir / "stop").unlink()
    with InStore(URL, folder).held(silent) as log:
        time.sleep(1.0)
        assert not (log.run_dir / "stop").exists()


# Other places


def test_a_run_in_a_store_goes_on_on_another_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began(URL, folder)
    there = folder.rename(tmp_path / "there")
    monkeypatch.setenv(place.CACHE_ENV, str(tmp_path / "another cache"))
    with (
        pytest.raises(RunError, match=r"not on this machine\. Go on from .* run FILE --resume"),
        InStore(URL).held(silent),
    ):
        pass
    with InStore(URL, there).held(silent) as log:
        assert log.records_at_open[0]["folder"] == str(there)
        assert journal.read(log.run_dir)[0]["folder"] == str(there)
    assert read(URL)[0]["folder"] == str(folder)


def test_a_copy_within_the_store_becomes_a_run_of_its_own(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began(URL, folder)
    other = "memory://bucket/copies/demo"
    copied = {key.replace(URL, other): data for key, data in InMemory.content.items()}
    InMemory.content.update(copied)
    with InStore(other, folder).held(silent) as log:
        assert log.records_at_open[0]["id"] != "an-id"
        session(log, other, 2)
    assert f"this is a copy of {URL}" in capfd.readouterr().err
    assert read(other)[0]["copy_of"] == "an-id"
    assert read(URL)[0]["id"] == "an-id"
    with InStore(other, folder).held(silent) as log:
        assert log.records_at_open[0]["copy_of"] == "an-id"
    assert "copy" not in capfd.readouterr().err


def test_a_run_that_was_moved_within_the_store_stays_itself(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began(URL, folder)
    other = "memory://elsewhere/demo"
    moved = {key.replace(URL, other): data for key, data in InMemory.content.items()}
    InMemory.content.clear()
    InMemory.content.update(moved)
    with InStore(other, folder).held(silent) as log:
        assert log.records_at_open[0]["id"] == "an-id"
    assert f"moved here from {URL}" in capfd.readouterr().err


def test_damage_is_refused(folder: Path) -> None:
    began(URL, folder)
    there = objects.open_at(URL)
    first = there.list("journal/000001")[0]
    data = bytearray(there.get(first) or b"")
    data[20] ^= 1
    there.put(first, bytes(data))
    with (
        pytest.raises(JournalError, match=f"{URL}: the journal in the store is damaged"),
        InStore(URL, folder).held(silent),
    ):
        pass


def test_where_there_is_no_run_that_is_said() -> None:
    with pytest.raises(RunError, match=f"{URL}: there is no run here"):
        reading.pull(URL)


def test_a_home_is_found_by_url_by_copy_and_by_folder(tmp_path: Path, folder: Path) -> None:
    began(URL, folder)
    for run in (URL, reading.pull(URL), place.working_copy(URL)):
        assert homes.of(run).url == URL
    assert homes.of(tmp_path).url is None


# A real store


def test_while_the_store_is_away_nothing_is_called_safe(
    s3: Server, bucket: str, folder: Path
) -> None:
    url = f"{bucket}/runs/demo"
    with InStore(url, folder).held(silent) as log:
        assert isinstance(log, StoreJournal)
        begin(log, folder)
        with s3.away():
            note(log, 0)
            is_safe = log.begin_sync()
            time.sleep(0.5)
            assert not is_safe()
            assert indices(journal.read(log.run_dir)) == []
        log.sync()
        assert is_safe()
    assert indices(read(url)) == [0]


def test_a_driver_gives_up_on_a_store_that_stays_away(
    s3: Server, bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(objects.PATIENCE_ENV, "1")
    url = f"{bucket}/runs/demo"
    with InStore(url, folder).held(silent) as log:
        begin(log, folder)
        with s3.away():
            note(log, 0)
            with pytest.raises(StoreError, match=f"does not answer.*safe.*resume {url}"):
                log.sync()
            with pytest.raises(StoreError):
                note(log, 1)
    assert indices(read(url)) == []


def test_answers_that_are_lost_make_nothing_double(s3: Server, bucket: str, folder: Path) -> None:
    url = f"{bucket}/runs/demo"
    with InStore(url, folder).held(silent) as log:
        begin(log, folder)
        for index in range(12):
            s3.lose_answers, s3.lose_requests = index % 2, index % 3
            note(log, index)
            log.sync()
    assert indices(read(url)) == list(range(12))
    assert [record["n"] for record in read(url)] == list(range(14))


def test_a_store_that_takes_no_notice_of_conditions_is_refused(
    s3: Server, bucket: str, folder: Path
) -> None:
    s3.ignore_conditions = True
    with (
        pytest.raises(StoreError, match="takes no notice of If-None-Match"),
        InStore(f"{bucket}/runs/demo", folder).held(silent),
    ):
        pass


def test_a_store_that_refuses_to_be_written_is_told_at_once(
    s3: Server, bucket: str, folder: Path
) -> None:
    s3.refuse_writes = True
    began_s = time.monotonic()
    with (
        pytest.raises(StoreError, match=r"cannot be written: .*Access Denied; look with: .*doctor"),
        InStore(f"{bucket}/runs/demo", folder).held(silent),
    ):
        pass
    assert time.monotonic() - began_s < 10


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Have SIGINT raise KeyboardInterrupt: a shell's background jobs begin with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_waiting_for_the_store_can_be_interrupted(s3: Server, bucket: str, folder: Path) -> None:
    """A second Ctrl-C is an exception in ``sync``; the end does not wait for the store then."""
    main = threading.get_ident()

    def interrupt() -> None:
        signal.pthread_kill(main, signal.SIGINT)

    def drive() -> None:
        with InStore(f"{bucket}/demo", folder).held(silent) as log:
            begin(log, folder)
            s3.stop()
            note(log, 0)
            threading.Timer(0.5, interrupt).start()
            log.sync()

    began_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        drive()
    assert time.monotonic() - began_s < objects.PATIENCE_S / 4
