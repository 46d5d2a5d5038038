"""A journal's records in MLflow: a parent run for the experiment, a child run for each trial."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from raytune_hpo.journal import Record
from raytune_hpo.tracking import memory, parent, settings
from raytune_hpo.tracking.base import Refused, Unreachable
from raytune_hpo.tracking.names import clean
from raytune_hpo.tracking.registry import Registry
from raytune_hpo.tracking.store import PARENT_KEY, Store
from raytune_hpo.tracking.translate import Translator, milliseconds
from raytune_hpo.tracking.writes import Key, Writes

_log = logging.getLogger("raytune_hpo.tracking")
_SAVE_INTERVAL_S = 1.0
_TAGS_AT_CREATION = 50
_TEXT_TRIES = 6
_CONNECTIONS = 8
"""Requests to a server at the same time, so that a slow one takes as much as a fast one."""
_SLOW_S = 1.0
"""A store that takes longer for a call is slow: its runs would come too late for trials to wait."""

Item = TypeVar("Item")
Announce = Callable[[dict[str, Any]], None]


class MlflowTracker:
    """Brings a journal to one MLflow store. What is sent twice is there once.

    Args:
        run_dir: The run's directory, where the tracker keeps what it remembers.
        uri: Another store than the journal says.
        experiment: Another MLflow experiment than the journal says.
        ahead: Runs to make for trials that are to come.
        announce: Told of the store, of the run id of each trial that has not finished, and when
            the store becomes slow or fast; called by several threads.

    Attributes:
        refused: Writes that the store did not take.
        last_refusal: What it said.
        settings: Where the records go; None before the first of them.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        uri: str | None = None,
        experiment: str | None = None,
        ahead: int = 0,
        announce: Announce = lambda message: None,
    ) -> None:
        self.refused = 0
        self.last_refusal = ""
        self.settings: settings.Settings | None = None
        self._run_dir = run_dir
        self._wanted = (uri, experiment)
        self._ahead = ahead
        self._announce = announce
        self._announced: set[Key] = set()
        self._translator = Translator()
        self._backlog: list[Record] = []
        self._registry: Registry | None = None
        self._labels: dict[str, str] | None = None
        self._text_failures = 0
        self._saved_s = 0.0
        self._slow = False
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="mlflow")

    @property
    def applied(self) -> int:
        """Records of the journal that the store has."""
        return 0 if self._registry is None else self._registry.memory.applied

    @property
    def created(self) -> int:
        """Runs made."""
        return 0 if self._registry is None else self._registry.created

    def apply(self, records: Sequence[Record]) -> None:
        """Take in records and bring them to the store, with all that waited before.

        Raises:
            Unreachable: They are kept; call again to try again.
        """
        self._backlog.extend(records)
        registry = self._begun()
        if registry is None:
            return
        registry.open()
        self._introduce(registry)
        for record in self._backlog:
            self._translator.take(record, send=record["n"] >= registry.memory.applied)
        self._backlog.clear()
        if self._translator.state.records < registry.memory.applied:
            # Of an earlier time: the store has more, which this state knows nothing of.
            return
        self._make_ahead(registry)
        self._flush(registry)
        registry.memory.applied = max(registry.memory.applied, self._translator.state.records)
        self._remember()

    def end(self) -> None:
        """Mark a run whose driver is gone as interrupted, and delete the spare runs.

        Raises:
            Unreachable: Call again to try again.
        """
        self.apply(())
        if self._registry is None:
            return
        self._registry.settle()
        self._translator.gone()
        self._flush(self._registry)
        self._delete_spares(self._registry)
        self._remember(now=True)

    def close(self) -> None:
        """Remember what was done."""
        self._threads.shutdown()
        if self._registry is not None and self._registry.memory.experiment_id:
            self._remember(now=True)

    def _begun(self) -> Registry | None:
        """Return the registry, which is made when the first record has come."""
        if self._registry is None and self._backlog:
            header = self._backlog[0]
            self.settings = settings.of_header(header, *self._wanted)
            known = memory.load(self._run_dir, self.settings)
            self._registry = Registry(Store(self.settings, self._heard), known, header)
        return self._registry

    def _heard(self, seconds: float) -> None:
        """Tell the driver when the store becomes slow, and when it no longer is."""
        with self._lock:
            if (seconds > _SLOW_S) != self._slow:
                self._slow = not self._slow
                self._announce({"slow": self._slow})

    def _introduce(self, registry: Registry) -> None:
        """Tell the driver where everything goes; makes the parent run if need be."""
        if self.settings is None or PARENT_KEY in self._announced:
            return
        header = self._backlog[0] if self._backlog else self._translator.state.header
        ready = {
            "uri": self.settings.uri,
            "experiment_id": registry.store.experiment_id,
            "parent_run_id": registry.ensure(PARENT_KEY, milliseconds(header["t"]), {}),
        }
        self._announced.add(PARENT_KEY)
        self._announce({"ready": ready})

    def _flush(self, registry: Registry) -> None:
        """Bring what waits: first what was measured, then artifacts, each at the same time."""
        waiting = self._translator.waiting
        if waiting and self._labels is None:
            self._labels = parent.experiment_tags(
                self._translator.state, self._translator.primary_metric
            )
        for key in waiting.keys() & registry.deleted:
            del waiting[key]
        self._each(list(waiting), lambda key: self._send(registry, key, waiting[key]))
        self._each(list(self._labels or ()), lambda name: self._label(registry.store, name))
        texts = [(key, name) for key, writes in waiting.items() for name in writes.texts]
        self._each(texts, lambda item: self._send_text(registry, *item))
        waiting.clear()

    def _label(self, store: Store, name: str) -> None:
        """Set a tag of the experiment; once set, it is not set again."""
        labels = self._labels or {}
        self._try(lambda: store.label(name, labels[name]))
        del labels[name]

    def _each(self, items: Sequence[Item], work: Callable[[Item], None]) -> None:
        """Do the work for each item; for several at the same time where that is faster.

        Raises:
            Unreachable: Of the first that failed; those that had not begun then are left out.
        """
        if self.settings is None or not self.settings.remote:
            for item in items:
                work(item)
            return
        failed = threading.Event()

        def guarded(item: Item) -> None:
            if failed.is_set():
                return
            try:
                work(item)
            except BaseException:
                failed.set()
                raise

        _finish([self._threads.submit(guarded, item) for item in items])

    def _send(self, registry: Registry, key: Key, writes: Writes) -> None:
        """Bring everything for one run; what has got through is not sent again."""
        fresh = key not in registry.memory.runs and len(writes.tags) <= _TAGS_AT_CREATION
        run_id = registry.ensure(key, writes.start_ms, writes.tags if fresh else {})
        if fresh:
            writes.tags.clear()
        self._tell(key, run_id)
        self._log(registry.store, run_id, writes)
        writes.forget_values()
        if key == PARENT_KEY:
            self._add_packages(writes)
        if writes.status is not None:
            self._set_status(registry, key, writes.status, writes.end_ms)

    def _send_text(self, registry: Registry, key: Key, name: str) -> None:
        """Add an artifact to a run; once added, it is not added again."""
        texts = self._translator.waiting[key].texts
        self._add_text(registry.store, registry.memory.runs[key], name, texts[name])
        del texts[name]

    def _tell(self, key: Key, run_id: str) -> None:
        with self._lock:
            if key not in self._announced:
                self._announced.add(key)
                self._announce({"trial": int(key), "run_id": run_id})

    def _add_packages(self, writes: Writes) -> None:
        """Add the list of packages where the run is described."""
        if parent.SPEC in writes.texts:
            packages = parent.requirements(self._translator.state.header, self._run_dir)
            if packages is not None:
                writes.texts.setdefault(parent.REQUIREMENTS, packages)

    def _add_text(self, store: Store, run_id: str, name: str, content: str) -> None:
        """Add an artifact; one that fails while the rest of the store works holds up nothing."""
        try:
            self._try(lambda: store.add_text(run_id, name, content))
        except Unreachable as error:
            store.ping()
            if self._text_may_work():
                raise
            self._count(error)
        self._text_failures = 0

    def _text_may_work(self) -> bool:
        """Count a failure while the rest of the store works; return whether to try again."""
        with self._lock:
            self._text_failures += 1
            return self._text_failures < _TEXT_TRIES

    def _set_status(self, registry: Registry, key: Key, status: str, end_ms: int | None) -> None:
        self._try(lambda: registry.set_status(key, status, end_ms))

    def _log(self, store: Store, run_id: str, writes: Writes) -> None:
        """Bring metrics, params and tags in one go; apart if the store does not take them so."""
        if not (writes.points or writes.params or writes.tags):
            return
        try:
            store.log(run_id, writes.points, writes.params, writes.tags)
        except Refused as error:
            _log.warning("one by one: %s", error)
            self._try(lambda: store.log(run_id, writes.points, {}, writes.tags))
            for name, value in writes.params.items():
                self._log_param(store, run_id, name, value)

    def _log_param(self, store: Store, run_id: str, name: str, value: str) -> None:
        """Log a param; under another name if the trial itself has logged it otherwise."""
        try:
            store.log(run_id, (), {name: value}, {})
        except Refused:
            self._try(lambda: store.log(run_id, (), {clean(f"config/{name}"): value}, {}))

    def _try(self, call: Callable[[], None]) -> None:
        """Call the store; what it refuses is counted, and the rest goes on."""
        try:
            call()
        except Refused as error:
            self._count(error)

    def _count(self, error: Exception) -> None:
        with self._lock:
            self.refused += 1
            self.last_refusal = str(error)
            if self._registry is not None:
                self._registry.memory.refused += 1
        _log.warning("refused: %s", error)

    def _make_ahead(self, registry: Registry) -> None:
        """Have a run for each trial that goes on, and for some that are to come."""
        state = self._translator.state
        if state.finish is not None:
            # It may go on; spare runs are deleted at the end.
            return
        for key in map(str, state.unfinished):
            if key in registry.memory.runs:
                self._tell(key, registry.memory.runs[key])
        if not self._ahead or not state.sessions:
            return
        first = len(state.trials)
        last = first + self._ahead
        numbers = range(first, last if state.budget is None else min(last, state.budget))
        keys = [str(number) for number in numbers]
        self._each(keys, lambda key: self._tell(key, registry.ensure(key, _now_ms())))
        self._each(keys, lambda key: self._set_status(registry, key, "SCHEDULED", None))

    def _delete_spares(self, registry: Registry) -> None:
        trials = {PARENT_KEY, *map(str, self._translator.state.trials)}
        spares = sorted(registry.memory.runs.keys() - trials)
        self._each(spares, lambda key: self._drop(registry, key))

    def _drop(self, registry: Registry, key: Key) -> None:
        self._announced.discard(key)
        self._try(lambda: registry.drop(key))

    def _remember(self, *, now: bool = False) -> None:
        """Save what is known; not more often than needed, as it can be found out again."""
        due = now or time.monotonic() - self._saved_s > _SAVE_INTERVAL_S
        if due and self.settings is not None and self._registry is not None:
            memory.save(self._run_dir, self.settings, self._registry.memory)
            self._saved_s = time.monotonic()


def _now_ms() -> int:
    return int(time.time() * 1000)


def _finish(calls: Iterable[Future[None]]) -> None:
    """Wait for all calls, and raise what the first of those that failed has raised."""
    errors = [error for call in calls if (error := call.exception()) is not None]
    if errors:
        raise errors[0]
