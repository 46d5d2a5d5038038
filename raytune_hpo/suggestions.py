"""Between the engine and a searcher: a suggestion is requested early and taken when it is there.

A searcher may think for seconds; whoever executes trials, and answers their reports, cannot wait.
The searcher gets all calls in the order in which they are made here, so what it suggests does not
depend on how long it thinks.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from enum import Enum, auto
from queue import SimpleQueue
from typing import Any, Final, Protocol, cast

from raytune_hpo.errors import SearcherError
from raytune_hpo.journal import Record
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.trial import Config, Outcome

GRACE_S = 0.005
"""A suggestion gets so long when it is to be taken: most come at once."""
CLOSE_S = 0.5
"""At the end a searcher gets so long to stop thinking, and is then left alone."""


class NotReady(Enum):
    """The type of ``NOT_READY``."""

    NOT_READY = auto()


NOT_READY: Final = NotReady.NOT_READY
"""What is taken while the searcher still thinks."""


class Expectant(Protocol):
    """A searcher that can tell what is left to gain."""

    def expected_improvement(self) -> float | None:
        """Return what the next trial is expected to gain, in the objective's unit, if known."""


class Suggestions:
    """A searcher that thinks while its caller waits: for simulations and tests.

    Args:
        searcher: New; nobody else calls it from now on.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.searchers.grid import GridSearcher
        >>> from raytune_hpo.space import Choice, SearchSpace
        >>> space = SearchSpace({"x": Choice(("a",))})
        >>> suggestions = Suggestions(GridSearcher(space, Objective.of("loss"), seed=1))
        >>> suggestions.request(0)
        >>> suggestions.request(1)
        >>> suggestions.take(0), suggestions.take(1)
        ({'x': 'a'}, None)
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        self._made: dict[int, Config | None] = {}
        self._gain: float | NotReady | None = NOT_READY

    def adopt(self, trial: int, config: Config) -> None:
        """Tell of a pending trial whose config came from elsewhere."""
        self._call(self._searcher.adopt, trial, config)

    def report(
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...]
    ) -> None:
        """Tell of an intermediate result."""
        self._call(self._searcher.report, trial, step, values, violations)

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Tell how a trial ended."""
        self._call(self._searcher.observe, trial, outcome)

    def request(self, trial: int) -> None:
        """Have a trial's config suggested from what has been told up to now."""
        self._call(self._make, trial)

    def take(self, trial: int) -> Config | NotReady | None:
        """Return the requested config, None when the space is exhausted, or ``NOT_READY``.

        Raises:
            SearcherError: The searcher failed, so there will never be one.
        """
        return self._made.pop(trial)

    def request_gain(self) -> None:
        """Have the searcher tell what it expects the next trial to gain.

        It has to have a method ``expected_improvement``.
        """
        self._gain = NOT_READY
        self._call(self._measure)

    def take_gain(self) -> float | NotReady | None:
        """Return what was requested, None when the searcher cannot tell yet, or ``NOT_READY``.

        Raises:
            SearcherError: The searcher failed, so it will never tell.
        """
        return self._gain

    def close(self) -> None:
        """Let go of the searcher, whatever it does."""

    def _call(self, call: Callable[..., None], *args: Any) -> None:
        call(*args)

    def _make(self, trial: int) -> None:
        self._made[trial] = self._searcher.suggest(trial)

    def _measure(self) -> None:
        self._gain = cast(Expectant, self._searcher).expected_improvement()


class _Closed(BaseException):
    """Raised in the middle of a searcher that nobody needs any more."""


class InBackground(Suggestions):
    """A searcher that thinks in a thread of its own, one call after the other.

    Its traceback is written to the standard error when it fails.
    """

    def __init__(self, searcher: Searcher) -> None:
        super().__init__(searcher)
        self._calls: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
        self._changed = threading.Condition()
        self._thinks = self._closed = False
        self._error: SearcherError | None = None
        # A daemon, as nothing ends a call into C before its time.
        self._thread = threading.Thread(target=self._work, name="searcher", daemon=True)
        self._thread.start()

    def take(self, trial: int) -> Config | NotReady | None:
        """Return the requested config, None when the space is exhausted, or ``NOT_READY``."""
        with self._changed:
            self._changed.wait_for(lambda: trial in self._made or self._error, GRACE_S)
            if trial in self._made:
                return self._made.pop(trial)
        if self._error is not None:
            raise self._error
        return NOT_READY

    def take_gain(self) -> float | NotReady | None:
        """Return what was requested, None when the searcher cannot tell yet, or ``NOT_READY``."""
        if self._error is not None:
            raise self._error
        return super().take_gain()

    def close(self) -> None:
        """End the searcher's thoughts.

        A thread that is in the middle of C++ code when the interpreter ends takes the process down
        with it (SIGABRT), so the thread is ended before.
        """
        if self._closed:
            return
        with self._changed:
            if self._thinks:
                thread, error = ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_Closed)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)
            self._closed = True
        self._call(lambda: None)
        self._thread.join(CLOSE_S)

    def _call(self, call: Callable[..., None], *args: Any) -> None:
        self._calls.put((call, args))

    def _make(self, trial: int) -> None:
        config = self._searcher.suggest(trial)
        with self._changed:
            self._made[trial] = config
            self._changed.notify_all()

    def _work(self) -> None:
        with contextlib.suppress(_Closed):
            while self._error is None:
                call, args = self._calls.get()
                with self._changed:
                    if self._closed:
                        return
                    self._thinks = True
                self._think(call, args)
                with self._changed:
                    self._thinks = False

    def _think(self, call: Callable[..., None], args: tuple[Any, ...]) -> None:
        try:
            call(*args)
        except _Closed:
            raise
        # Even a plug-in's sys.exit: whoever waits for a suggestion has to learn of it.
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        # A session sends it to driver.log; a notebook has a sys.stderr of its own.
        traceback.print_exception(error, file=sys.__stderr__)
        failure = SearcherError(f"the searcher failed: {type(error).__name__}: {error}")
        failure.__cause__ = error
        with self._changed:
            self._error = failure
            self._changed.notify_all()


def requested_early(records: Sequence[Record]) -> dict[int, Config]:
    """Return the configs, by trial, that were requested when the trial before was journaled.

    One at a time, a suggestion is requested when it is needed, so that it knows all outcomes. Else
    it is requested as soon as it is known to be the next one: right after the record of the trial
    before. It knows what the journal says up to there, no more, so that a resumed run gets it too.
    """
    early = {}
    ahead = False
    for record in records:
        if record["type"] == "session":
            ahead = record["parallel"] > 1
        elif record["type"] == "trial" and ahead and record["origin"] == "search":
            early[record["trial"]] = record["config"]
    # Nothing is journaled before the first one.
    early.pop(0, None)
    return early


class IdleTime:
    """Counts how long workers have nothing to do, summed over them.

    Example:
        >>> idle = IdleTime()
        >>> idle.note(10.0, workers=2)
        >>> idle.note(11.5, workers=0)
        >>> idle.note(20.0, workers=1)
        >>> idle.take(21.0)
        4.0
    """

    def __init__(self) -> None:
        self._since_s = 0.0
        self._workers = 0
        self._total_s = 0.0

    def note(self, now_s: float, workers: int) -> None:
        """Take note of how many are idle from now on."""
        self._total_s += self._workers * (now_s - self._since_s)
        self._since_s, self._workers = now_s, workers

    def take(self, now_s: float) -> float:
        """Return the seconds since the last call; nobody is idle from now on."""
        self.note(now_s, 0)
        total_s, self._total_s = self._total_s, 0.0
        return total_s
