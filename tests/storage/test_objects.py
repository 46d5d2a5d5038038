"""Objects: one behaviour of all stores, with answers that are lost and stores that refuse."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raytune_hpo.errors import StoreError
from raytune_hpo.storage import objects
from raytune_hpo.storage.backends import InMemory
from raytune_hpo.storage.objects import Objects
from tests.storage.s3 import Server


@pytest.fixture(params=["memory", "file", "s3"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    """Return the objects below an empty place of each kind of store."""
    if request.param == "s3":
        url = f"{request.getfixturevalue('bucket')}/some/runs"
    else:
        url = {"memory": "memory://some/runs", "file": f"file://{tmp_path}/runs"}[request.param]
    yield objects.open_at(url)
    InMemory.content.clear()


def test_what_is_put_is_got_listed_and_deleted(there: Objects) -> None:
    assert there.get("a/b") is None
    assert there.list("a") == []
    for key in ("a/b", "a/b.c", "ab/c", "a/d/e"):
        there.put(key, key.encode())
    there.put("a/b", b"anew")
    assert there.get("a/b") == b"anew"
    assert there.list("a") == ["a/b", "a/b.c", "a/d/e"]
    assert there.list("a/d") == ["a/d/e"]
    assert there.list("") == ["a/b", "a/b.c", "a/d/e", "ab/c"]
    assert there.get_all(["a/b", "none", "ab/c"]) == [b"anew", None, b"ab/c"]
    there.delete(["a/b", "none", "a/d/e"])
    assert there.list("") == ["a/b.c", "ab/c"]
    there.delete([])


def test_files_go_up_and_down_and_are_copied(there: Objects, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * 1000)
    there.upload(source, "x/file")
    assert there.copy("x/file", "y/file")
    assert not there.copy("x/none", "y/none")
    assert there.download("y/file", target)
    assert target.read_bytes() == source.read_bytes()
    assert not there.download("y/none", target)


def test_another_server_is_gone_to_when_the_environment_says_so(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.open_at(bucket).put("key", b"here")
    other = Server()
    for name, value in other.environment().items():
        monkeypatch.setenv(name, value)

    objects.open_at(bucket).list("")

    other.stop()
    assert [path for _, path in other.requests if bucket.removeprefix("s3://") in path]


def test_only_the_first_creates(there: Objects) -> None:
    assert there.create("one", b"first")
    assert not there.create("one", b"second")
    assert there.get("one") == b"first"
    # Its own content is its own object: it may have lost the answer.
    assert there.create("one", b"first")


def test_of_many_at_the_same_time_one_creates(there: Objects) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        return there.create("one", f"{number}".encode())

    for _ in range(5):
        with ThreadPoolExecutor(8) as threads:
            won = [number for number, mine in enumerate(threads.map(create, range(8))) if mine]
        assert len(won) == 1
        assert there.get("one") == f"{won[0]}".encode()
        there.delete(["one"])


def test_an_answer_that_is_lost_is_found_out(s3: Server, bucket: str) -> None:
    there = objects.open_at(f"{bucket}/run")
    s3.lose_answers = 2
    assert there.create("one", b"mine")
    assert s3.lose_answers == 0
    s3.lose_requests = 2
    assert there.create("two", b"mine")
    s3.lose_requests = 2
    there.put("two", b"anew")
    assert there.get("two") == b"anew"
    there.put("three", b"another's")
    s3.lose_answers = 1
    assert not there.create("three", b"mine")


def test_a_store_that_is_away_is_waited_for(
    s3: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_NOTE_AFTER_S", 0.2)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        s3.start()

    there = objects.open_at(f"{bucket}/run", note=note)
    assert there.get("one") is None  # what the first call of a store takes is no waiting
    with s3.away():
        assert there.create("one", b"mine")
    assert there.get("one") == b"mine"
    assert len(notes) == 2
    assert f"{bucket}/run does not answer for" in notes[0]
    assert "the run waits" in notes[0]
    assert "answers again" in notes[1]


class Clock:
    """Stands still but for waits, which take a quarter of a second each."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += 0.25


def test_patience_has_an_end_that_is_explained(
    s3: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    there = objects.open_at(f"{bucket}/run", patience=1.0)
    monkeypatch.setattr(there, "_sleep", clock.sleep)
    monkeypatch.setattr(objects, "time", clock)
    with s3.away():
        began_s = time.monotonic()
        with pytest.raises(StoreError, match=rf"{bucket}/run: the store does not answer, for 1 s"):
            there.put("one", b"mine")
        assert time.monotonic() - began_s < 10
        abandoned = objects.open_at(f"{bucket}/run", given_up=lambda: True)
        with pytest.raises(StoreError, match="the store does not answer: Could"):
            abandoned.get("one")


def test_a_store_that_refuses_is_not_asked_again_and_explained(s3: Server, bucket: str) -> None:
    there = objects.open_at(f"{bucket}/run")
    s3.refuse_writes = True
    s3.requests.clear()
    with pytest.raises(StoreError, match="cannot be written: PermissionError: Access Denied; look"):
        there.put("one", b"mine")
    assert len(s3.requests) == 1


def test_what_worked_before_may_be_refused_for_a_while(s3: Server, bucket: str) -> None:
    there = objects.open_at(f"{bucket}/run")
    there.put("one", b"mine")
    s3.refuse_writes = True
    threading.Timer(0.5, s3.calm).start()
    there.put("one", b"anew")
    assert there.get("one") == b"anew"


def test_a_bucket_that_is_not_there_is_named(s3: Server) -> None:
    there = objects.open_at("s3://no-such-bucket/run")
    for call in (lambda: there.put("a", b""), lambda: there.get("a"), lambda: there.list("a")):
        with pytest.raises(StoreError, match=r"s3://no-such-bucket/run: .*bucket"):
            call()


@pytest.mark.parametrize(
    "url", ["s3://AKIA:hunter2@bucket/x", "hdfs://host/x", "s3://", "https://host/x"]
)
def test_what_is_no_url_of_a_store_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StoreError, match="the URL") as caught:
        objects.open_at(url)
    assert "hunter2" not in str(caught.value)


def test_a_package_that_is_missing_is_named() -> None:
    with pytest.raises(StoreError, match=r"pip install 'raytune-hpo\[gcs\]'"):
        objects.open_at("gs://bucket/x")


def test_no_key_or_secret_is_in_an_error(
    s3: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = objects.open_at(f"{bucket}/run", patience=0.0)
    s3.refuse_writes = True
    with pytest.raises(StoreError) as refused:
        there.put("one", b"x")
    with s3.away(), pytest.raises(StoreError) as away:
        there.put("one", b"x")
    for caught in (refused, away):
        for secret in ("an-id", "a-secret"):
            assert secret not in str(caught.value)


def test_what_is_no_error_of_a_store_is_passed_on() -> None:
    class Wrong(InMemory):
        def get(self, key: str) -> bytes:
            raise TypeError("a mistake of ours")

    with pytest.raises(TypeError, match="a mistake of ours"):
        Objects("memory://x", Wrong("memory://x")).get("one")
