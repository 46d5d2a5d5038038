"""Which MLflow run belongs to which trial: never two for one, whatever fails in between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from raytune_hpo.journal import Record
from raytune_hpo.tracking import parent
from raytune_hpo.tracking.base import Unreachable
from raytune_hpo.tracking.memory import Memory
from raytune_hpo.tracking.store import KEY_TAG, PARENT_KEY, STATE_TAG, Known, Store
from raytune_hpo.tracking.writes import Key

_log = logging.getLogger("raytune_hpo.tracking")


class Registry:
    """The runs of one journal in one store.

    All runs with the journal's tag are listed once, and again after each creation whose outcome
    is not known: what was made then is found, and not made twice. ``ensure``, ``set_status`` and
    ``drop`` may be called by several threads, each for other runs.

    Args:
        store: Where the runs are.
        memory: What was known of them in earlier sessions; kept up to date.
        header: The journal's ``experiment`` record.

    Attributes:
        deleted: Trials whose run somebody has deleted in MLflow; they are left alone.
        status: Of each run, as far as it is known.
        created: Runs made here.
    """

    def __init__(self, store: Store, memory: Memory, header: Record) -> None:
        self.store = store
        self.memory = memory
        self.deleted: set[Key] = set()
        self.status: dict[Key, str] = {}
        self.created = 0
        self._header = header
        self._listed = False
        self._compared = False
        self._doubtful = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Connect, and learn which runs there are, if that is not known.

        If the store lacks what it once had, or did not take something, nothing of the journal
        counts as applied.

        Raises:
            Unreachable: Call again to try again.
        """
        if self._listed:
            return
        if not self.store.experiment_id:
            self.store.open()
        runs = self._list()
        if not self._compared and self._stale(runs):
            self.memory.applied = 0
        self._compared = True
        self.memory.refused = 0 if self.memory.applied == 0 else self.memory.refused
        self.memory.experiment_id = self.store.experiment_id
        self.memory.runs = runs
        self._listed = True

    def _list(self) -> dict[Key, str]:
        runs: dict[Key, str] = {}
        deleted: set[Key] = set()
        surplus: list[Known] = []
        for known in self.store.runs(self._header["id"]):
            if known.deleted:
                deleted |= set() if known.spare else {known.key}
            elif known.run_id != self.memory.runs.get(known.key, known.run_id) or known.key in runs:
                surplus.append(known)
            else:
                runs[known.key] = known.run_id
                self.status[known.key] = known.status
        for known in surplus:
            self._resolve(known, runs)
        self.deleted = deleted - runs.keys()
        return runs

    def _resolve(self, known: Known, runs: dict[Key, str]) -> None:
        """Keep one run of those with the same key: the one that is known, or the first."""
        if known.key not in runs:
            runs[known.key] = known.run_id
            self.status[known.key] = known.status
            return
        _log.warning("run %s of trial %s is a double; deleted", known.run_id, known.key)
        self.store.delete(known.run_id)

    def _stale(self, runs: Mapping[Key, str]) -> bool:
        memory = self.memory
        lost = memory.runs.keys() - runs.keys() - self.deleted
        moved = memory.experiment_id not in ("", self.store.experiment_id)
        return bool(lost) or moved or memory.refused > 0 or PARENT_KEY not in runs

    def settle(self) -> None:
        """Look once more if a creation was in doubt: it may have come about late.

        Raises:
            Unreachable: Call again to try again.
        """
        if self._doubtful:
            self._listed = False
            self.open()
            self._doubtful = False

    def ensure(self, key: Key, start_ms: int, tags: Mapping[str, str] | None = None) -> str:
        """Return the id of a run, which is made if the store does not have it.

        Args:
            key: Which one.
            start_ms: When it began.
            tags: Of a new one, besides those that each run has; None for one made ahead.

        Raises:
            Unreachable: It may have been made, or another one: ``open`` finds out.
        """
        if not self._listed:
            # No listing while other threads make runs: it would lack some of them.
            raise Unreachable("the outcome of an earlier call is not known")
        known = self.memory.runs.get(key)
        return self._create(key, start_ms, tags) if known is None else known

    def _create(self, key: Key, start_ms: int, tags: Mapping[str, str] | None) -> str:
        name = self._header["name"] if key == PARENT_KEY else f"trial-{int(key):04}"
        all_tags: dict[str, Any] = {KEY_TAG: f"{self._header['id']}/{key}"}
        all_tags |= parent.who(self._header)
        if key != PARENT_KEY and PARENT_KEY in self.memory.runs:
            all_tags["mlflow.parentRunId"] = self.memory.runs[PARENT_KEY]
        all_tags |= {STATE_TAG: "pending"} if tags is None else tags
        try:
            run_id = self.store.create(name, all_tags, start_ms)
        except Unreachable:
            self._listed, self._doubtful = False, True
            raise
        self.memory.runs[key] = run_id
        self.status[key] = "RUNNING"
        self.deleted.discard(key)
        with self._lock:
            self.created += 1
        return run_id

    def set_status(self, key: Key, status: str, end_ms: int | None) -> None:
        """Set the status of a run, unless it has it already.

        Raises:
            Unreachable: The status is as it was, or as it should be.
            Refused: It cannot be set.
        """
        if self.status.get(key) == status:
            return
        self.status.pop(key, None)
        self.store.set_status(self.memory.runs[key], status, end_ms)
        self.status[key] = status

    def drop(self, key: Key) -> None:
        """Delete a run.

        Raises:
            Unreachable: It is there or not.
            Refused: It cannot be deleted.
        """
        self.status.pop(key, None)
        self.store.delete(self.memory.runs[key])
        del self.memory.runs[key]
