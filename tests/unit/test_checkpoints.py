"""Checkpoints on the disk."""

from __future__ import annotations

from pathlib import Path

from raytune_hpo import checkpoints


def saved(run_dir: Path, trial: str, text: str) -> Path:
    source = run_dir / "model.txt"
    source.write_text(text)
    return checkpoints.save(source, run_dir / trial, 1)


def test_a_copy_belongs_to_another_trial_and_outlives_the_original(tmp_path: Path) -> None:
    first = saved(tmp_path, "0000", "one")
    copy = checkpoints.copy(first, tmp_path / "0007")
    assert copy is not None
    assert copy.is_relative_to(tmp_path / "0007")
    second = saved(tmp_path, "0000", "two")
    checkpoints.prune(tmp_path / "0000", 1, second)
    assert not first.exists()
    assert (copy / "model.txt").read_text() == "one"


def test_a_copy_takes_no_room_of_its_own_where_files_can_be_linked(tmp_path: Path) -> None:
    first = saved(tmp_path, "0000", "one")
    copy = checkpoints.copy(first, tmp_path / "0007")
    assert copy is not None
    assert (copy / "model.txt").samefile(first / "model.txt")


def test_a_copy_replaces_what_an_interrupted_one_left(tmp_path: Path) -> None:
    checkpoints.copy(saved(tmp_path, "0000", "one"), tmp_path / "0007")
    copy = checkpoints.copy(saved(tmp_path, "0001", "two"), tmp_path / "0007")
    assert copy is not None
    assert (copy / "model.txt").read_text() == "two"


def test_the_first_checkpoint_of_the_copy_s_owner_replaces_it(tmp_path: Path) -> None:
    copy = checkpoints.copy(saved(tmp_path, "0000", "one"), tmp_path / "0007")
    assert copy is not None
    own = saved(tmp_path, "0007", "more")
    checkpoints.prune(tmp_path / "0007", 1, own)
    assert not copy.exists()
    assert own.exists()


def test_a_checkpoint_that_was_deleted_cannot_be_copied(tmp_path: Path) -> None:
    assert checkpoints.copy(tmp_path / "gone", tmp_path / "0007") is None
    assert list((tmp_path / "0007").rglob("*.part")) == []
