"""Whether a run directory may say what is executed here."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from raytune_hpo import journal
from raytune_hpo.errors import RunError

_ROOT = 0


def check(run_dir: Path) -> None:
    """Refuse a run directory that somebody else than this user or root can have written.

    Going on with a run executes the command that its journal holds. Whoever can write the journal
    can therefore execute what they like as the user who resumes. Looked at are the directory, its
    journal and each segment, behind symbolic links too. A directory that the user's group may
    write is taken: it is how a team shares runs, and the usual state where everybody has a group
    of their own. Files in it that other members wrote are refused for their owner.

    Who wrote the content is not known: a directory that was copied or unpacked belongs to who
    copied it.

    Args:
        run_dir: Directory of the run, which exists.

    Raises:
        RunError: It, or its journal, belongs to another user or can be written by everybody; says
            what and what to do.
    """
    for path in _deciding(run_dir):
        why = _doubt(path.stat())
        if why is not None:
            raise RunError(
                f"{path} {why}, and going on with a run executes the command that its journal "
                f"holds. Look at {run_dir / 'experiment.yaml'} and at the journal first; then "
                "add --trust, or start a run of your own from the experiment file"
            )


def _deciding(run_dir: Path) -> Iterator[Path]:
    """Yield what decides on the commands; folders before what is in them."""
    yield run_dir
    folder = run_dir / journal.FOLDER
    if folder.exists():
        yield folder
        yield from journal.segments(run_dir)


def _doubt(status: os.stat_result) -> str | None:
    """Return why something may be written by others, or None."""
    if status.st_uid not in (_ROOT, os.geteuid()):
        return f"belongs to {_user(status.st_uid)}"
    if status.st_mode & stat.S_IWOTH:
        return "can be written by everybody"
    return None


def _user(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name} ({uid})"
    except KeyError:
        return f"the unknown user {uid}"
