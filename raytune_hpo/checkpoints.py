"""Checkpoints of a trial: numbered folders in its own folder of the run directory."""

from __future__ import annotations

import shutil
from pathlib import Path

FOLDER = "checkpoints"


def save(source: Path, trial_dir: Path) -> Path:
    """Copy a file or folder to a new numbered folder and return that folder.

    The folder appears under its name only when it is complete.

    Args:
        source: What the trial reported as its checkpoint.
        trial_dir: Folder of the trial in the run directory.
    """
    folder = trial_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in _numbered(folder)), default=0) + 1
    target = folder / f"{number:06d}"
    draft = folder / f"{number:06d}.part"
    shutil.rmtree(draft, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, draft)
    else:
        draft.mkdir()
        shutil.copy2(source, draft / source.name)
    draft.rename(target)
    return target


def prune(trial_dir: Path, keep: int, newest: Path) -> None:
    """Delete all but the ``keep`` newest checkpoints up to ``newest``."""
    older = [path for path in _numbered(trial_dir / FOLDER) if path.name <= newest.name]
    for path in older[: max(0, len(older) - keep)]:
        shutil.rmtree(path)


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.name.isdigit())
