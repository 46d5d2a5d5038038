"""What a run was made with: versions, host, user, git, command line."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from raytune_hpo.redact import redact


def describe(folder: Path) -> dict[str, Any]:
    """Return facts about this machine and process, for the journal.

    Args:
        folder: Where the experiment lives; its git commit is looked up.
    """
    return {
        "python": platform.python_version(),
        "raytune_hpo": metadata.version("raytune-hpo"),
        "ray": metadata.version("ray"),
        "host": socket.gethostname(),
        "user": _user(),
        "git": _git(folder),
        "command": [redact(word) for word in sys.argv],
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _git(folder: Path) -> dict[str, Any] | None:
    commit = _git_says(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {
        "commit": commit,
        "dirty": bool(_git_says(folder, "status", "--porcelain", "--untracked-files=no")),
        "remote": redact(_git_says(folder, "remote", "get-url", "origin") or ""),
    }


def _git_says(folder: Path, *words: str) -> str | None:
    """Return what git prints, or None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
