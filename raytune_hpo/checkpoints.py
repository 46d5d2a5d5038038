"""Checkpoints of a trial: numbered folders in its own folder of the run directory."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from raytune_hpo import disk, failpoints

FOLDER = "checkpoints"
_NAME = re.compile(r"\d{3,}-\d{6,}")


def save(source: Path, trial_dir: Path, attempt: int) -> Path:
    """Copy a file or folder to a new numbered folder, bring it to disk, and return that folder.

    The folder appears under its name only when it is complete. Each attempt has names of its own,
    so that one which outlives its driver cannot touch what its successor saves.

    Args:
        source: What the trial reported as its checkpoint.
        trial_dir: Folder of the trial in the run directory.
        attempt: Number of the attempt that saves it, from 1.
    """
    folder = trial_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    own = [path for path in _numbered(folder) if _key(path)[0] == attempt]
    number = 1 + (_key(own[-1])[1] if own else 0)
    target = folder / f"{attempt:03d}-{number:06d}"
    draft = target.with_suffix(".part")
    for left in folder.glob("*.old"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(draft, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, draft)
    else:
        draft.mkdir()
        shutil.copy2(source, draft / source.name)
    _sync_tree(draft)
    failpoints.reach("checkpoint.draft")
    draft.rename(target)
    disk.sync(folder)
    failpoints.reach("checkpoint.saved")
    return target


def copy(checkpoint: Path, trial_dir: Path) -> Path | None:
    """Copy a checkpoint to a trial that has not begun and return the new folder.

    Files are linked where the file system can. What an earlier try left is replaced.

    Args:
        checkpoint: Folder that ``save`` returned, for the same or another trial.
        trial_dir: Folder of the new trial in the run directory.

    Returns:
        None when the checkpoint was deleted meanwhile.
    """
    folder = trial_dir / FOLDER
    target = folder / "000-000001"
    draft = target.with_suffix(".part")
    for left in (target, draft):
        shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(checkpoint, draft, copy_function=_link)
    except (shutil.Error, FileNotFoundError):
        shutil.rmtree(draft, ignore_errors=True)
        if checkpoint.exists():
            raise
        return None
    _sync_tree(draft)
    draft.rename(target)
    disk.sync(folder)
    return target


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def prune(trial_dir: Path, keep: int, newest: Path) -> None:
    """Delete all but the ``keep`` newest checkpoints up to ``newest``."""
    older = [path for path in _numbered(trial_dir / FOLDER) if _key(path) <= _key(newest)]
    for path in older[: max(0, len(older) - keep)]:
        # Half a checkpoint must never stand under its name.
        unused = path.with_suffix(".old")
        path.rename(unused)
        shutil.rmtree(unused)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            path = Path(parent, name)
            if path.is_file():
                disk.sync(path)
        disk.sync(Path(parent))


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_key)


def _key(path: Path) -> tuple[int, int]:
    return order(path.name)


def order(name: str) -> tuple[int, int]:
    """Return what checkpoints are sorted by, from a name such as ``001-000003``."""
    attempt, _, number = name.partition("-")
    return int(attempt), int(number)
