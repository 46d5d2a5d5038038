"""A Ray for the driver on this machine: the one it belongs to already, or one of its own."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from raytune_hpo.cluster.base import Room
from raytune_hpo.cluster.guard import Guard
from raytune_hpo.errors import InfrastructureError

_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
START_TRIES = 4
"""Ray's start has two hard limits (30 s and 15 s) that a loaded machine misses now and then."""
RETRY_WAIT_S = 2.0
"""Before the second try; it doubles for each further one."""


class LocalRay:
    """Connects to Ray; starts a private one when there is none.

    In order: the Ray this process is connected to already (a notebook), the cluster that the
    variable RAY_ADDRESS names (a job on Slurm or KubeRay), a new one on this machine. A new one
    has no dashboard, its own access token, its files in a folder only this user can read, and
    listens on this machine's loopback address only.
    """

    def __init__(self) -> None:
        self._guard: Guard | None = None
        self._connected = False
        self.deadline_t: float | None = None
        self.margin_s = 0.0
        # One that was started here never comes back; a cluster's head may be restarted.
        self.patience_s = 30.0 if os.environ.get("RAY_ADDRESS") else 3.0

    def connect(self, log: Path) -> None:
        """Connect this process to Ray.

        Args:
            log: File that takes what Ray has to say.

        Raises:
            InfrastructureError: Ray did not start.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if not os.environ.get("RAY_ADDRESS"):
            # Read when Ray is imported: a Ray of one machine listens on its loopback address only.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        import ray

        log_to(log)
        if ray.is_initialized():
            return
        self._connected = True
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        else:
            self._start_with_retries()
        log_to(log)

    def _start_with_retries(self) -> None:
        for left in reversed(range(START_TRIES)):
            try:
                self._start()
            except Exception as error:
                self._clean()
                if not left:
                    raise InfrastructureError(
                        f"Ray did not start on this machine, {START_TRIES} tries: {error}. "
                        "It misses its own time limits on a machine with a high load: try again "
                        "when less is running"
                    ) from error
                logging.getLogger("ray").warning("Ray did not start, trying again: %s", error)
                time.sleep(RETRY_WAIT_S * 2 ** (START_TRIES - 1 - left))
            else:
                return

    def _start(self) -> None:
        import ray

        folder = Path(tempfile.mkdtemp(prefix="rth-", dir=_short_folder()))
        self._guard = Guard(folder, _set_token())
        # Ray opens its own folder to everybody; the one around it stays closed.
        ray.init(
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder / "r"),
        )

    def room(self) -> Room | None:
        """Return None: no machine will come."""
        return None

    def note(self, busy: frozenset[str], *, wanting: bool) -> None:
        """Take note of what the machines do; nothing follows from it here."""

    def close(self) -> None:
        """Leave Ray as it was found: end the one that was started here."""
        if self._connected:
            self._clean()

    def _clean(self) -> None:
        import ray

        ray.shutdown()
        if self._guard is not None:
            self._guard.close()
            self._guard = None


def _short_folder() -> str:
    """Return a folder for temporary files whose path leaves room for Ray's sockets in it.

    A socket's path has at most 107 characters, and Ray adds about 80.
    """
    usual = tempfile.gettempdir()
    places = [usual, "/tmp", "/var/tmp"]
    return next((p for p in places if len(p) <= 24 and os.access(p, os.W_OK)), usual)


def _set_token() -> list[Path]:
    """Give Ray an access token of this process's own, in a file that only this user can read.

    Ray would write one to the home folder for everybody to read. It reads the token once in the
    life of a process, so there is one a process. Settings of the user's own are left alone.

    Returns:
        Folders that were made for it now.
    """
    if any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", _TOKEN_PATH)):
        return []
    folder = Path(tempfile.mkdtemp(prefix="rth-token-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ[_TOKEN_PATH] = str(token)
    return [folder]


def log_to(log: Path) -> None:
    """Send what Ray logs in this process to a file and nowhere else."""
    logger = logging.getLogger("ray")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    handler = logging.FileHandler(log, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
