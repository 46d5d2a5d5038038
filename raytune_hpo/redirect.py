"""Sending what this process writes to a file descriptor elsewhere, C code's output too."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def output_to(path: Path, fd: int) -> Iterator[None]:
    """Append standard output (``fd`` 1) or standard error (2) to a file in this block."""
    stream = sys.stdout if fd == 1 else sys.stderr
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    stream.flush()
    saved = os.dup(fd)
    os.dup2(target, fd)
    os.close(target)
    try:
        yield
    finally:
        stream.flush()
        os.dup2(saved, fd)
        os.close(saved)
