"""A run directory that was copied or moved: it goes on as itself and leaves the original alone."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

from raytune_hpo import journal
from raytune_hpo.journal import Record
from raytune_hpo.state import RunState

_TRACKED = "mlflow.json"


def settle(run_dir: Path) -> str | None:
    """Make a copied or moved run directory at home where it is now.

    A copy becomes a run of its own, with its own MLflow runs. The experiment's folder, and the one
    that it was started in, are looked for at the same place relative to the run directory, when
    the old ones are gone or belong to the original of a copy.

    Args:
        run_dir: Held by this process.

    Returns:
        What was found, in one sentence, or None when nothing has changed.

    Raises:
        JournalError: The journal is damaged.
    """
    state = RunState.replay(journal.read(run_dir))
    if not state.sessions:
        return None
    before = Path(state.sessions[-1].run_dir)
    if before == run_dir:
        return None
    original = _original(state, before, run_dir)
    header = dict(state.header)
    for name in ("folder", "cwd"):
        header[name] = str(_at_home(Path(header[name]), before, run_dir, copied=original))
    if original:
        header["id"] = uuid.uuid4().hex
        header["copy_of"] = state.id
        # Its runs belong to the original; a copy gets its own.
        run_dir.joinpath(_TRACKED).unlink(missing_ok=True)
    if header != state.header:
        journal.replace_first(run_dir, header)
    if original:
        return f"this is a copy of {before}; it goes on as a run of its own"
    return f"this run was moved here from {before}"


def _original(state: RunState, before: Path, run_dir: Path) -> bool:
    """Return whether the run is still where it was, so that this is a copy of it."""
    if state.sessions[-1].host != socket.gethostname() or not journal.exists(before):
        return False
    if before.samefile(run_dir):
        return False
    first: list[Record] = journal.Follower(before).poll()
    return bool(first) and first[0]["id"] == state.id


def _at_home(folder: Path, before: Path, run_dir: Path, *, copied: bool) -> Path:
    """Return where a folder of the run is now."""
    here = Path(os.path.normpath(run_dir / os.path.relpath(folder, before)))
    inside = before.is_relative_to(folder)
    if here == folder or not inside or not here.is_dir():
        return folder
    if not folder.is_dir():
        return here
    return here if copied and _same_files(folder, here) else folder


def _same_files(folder: Path, other: Path) -> bool:
    """Return whether a copy has the files of a folder: it was copied with all the run needs."""
    files = {path.name for path in folder.iterdir() if path.is_file()}
    return bool(files) and files <= {path.name for path in other.iterdir()}
