"""The world of a simulated schedule: what is run, and the journal and searcher it is run with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from raytune_hpo.chaos import observed as seen
from raytune_hpo.engine import Engine
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import MemoryJournal, Record
from raytune_hpo.plugins import load
from raytune_hpo.schedulers.base import Decision, Scheduler
from raytune_hpo.searchers.base import Searcher
from raytune_hpo.space import Float
from raytune_hpo.trial import Config, Outcome

SEARCH_SEED = 7
SETUP_CHOICES = 10
"""So many choices say what is run."""

_SEARCHERS = (*("random",) * 28, *("sobol",) * 2, *("tpe",) * 2)
_MAX_FAILED = (None, 1, 2, 3, 4, None)
_SCHEDULERS = (
    ("none", None),
    ("none", None),
    ("asha", 3),
    ("asha", 2),
    ("none", None),
    ("asha", 4),
    ("hyperband", 4),
    ("sha", 3),
)
"""Name and ``max_resource``."""
_CHECKPOINTS = ("each", "some", "no", "each")
_FRAGILE = (0, 0, 0, 1, 2, 3, 4, 0)
_TARGETS = (*(None,) * 7, 0.55)


class DriverDied(BaseException):
    """The driver is killed; nothing may catch it but the schedule."""


class Choices:
    """Small numbers, taken one after another, then 0 for ever."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = iter(numbers)

    def below(self, bound: int) -> int:
        """Return the next one, from 0 and below ``bound``."""
        return next(self._numbers, 0) % bound


@dataclass(frozen=True)
class Setup:
    """What a schedule runs.

    Attributes:
        experiment: What the user wants; ``parallel`` is that of most sessions.
        steps: Steps of a trial are 1 to 5 and follow from this and its number.
        checkpoints: ``each``, ``some`` or ``no`` reports carry a checkpoint.
        fragile: With n, each n-th trial raises after its last step; with 0 none does.
    """

    experiment: Experiment
    steps: int
    checkpoints: str
    fragile: int

    @classmethod
    def choose(cls, choices: Choices) -> Setup:
        """Return what the first choices ask for."""
        experiment = _experiment(
            trials=3 + choices.below(8),
            parallel=1 + choices.below(5),
            retries=choices.below(3),
            max_failed=_MAX_FAILED[choices.below(len(_MAX_FAILED))],
            searcher=_SEARCHERS[choices.below(len(_SEARCHERS))],
            scheduler=_SCHEDULERS[choices.below(len(_SCHEDULERS))],
            target=_TARGETS[choices.below(len(_TARGETS))],
        )
        steps = choices.below(5)
        checkpoints = _CHECKPOINTS[choices.below(len(_CHECKPOINTS))]
        return cls(experiment, steps, checkpoints, _FRAGILE[choices.below(len(_FRAGILE))])

    def steps_of(self, trial: int) -> int:
        """Return how many steps a trial has."""
        return 1 + self.steps * (trial + 1) % 5

    def raises(self, trial: int) -> bool:
        """Return whether a trial raises at its end, in every attempt."""
        return self.fragile > 0 and (trial + 1) % self.fragile == 0

    def has_checkpoint(self, trial: int, step: int) -> bool:
        """Return whether the report of a step carries a checkpoint."""
        return self.checkpoints == "each" or (self.checkpoints == "some" and (trial + step) % 2 > 0)


@cache
def _experiment(
    *,
    trials: int,
    parallel: int,
    retries: int,
    max_failed: int | None,
    searcher: str,
    scheduler: tuple[str, int | None],
    target: float | None,
) -> Experiment:
    budgets = {
        "trials": trials,
        "parallel": parallel,
        "retries": retries,
        "max_failed": max_failed,
    }
    return _base(searcher, scheduler, target).model_copy(update=budgets)


@cache
def _base(searcher: str, scheduler: tuple[str, int | None], target: float | None) -> Experiment:
    settings = {"startup_trials": 2, "candidates": 4} if searcher == "tpe" else {}
    algorithm, max_resource = scheduler
    limits = {} if max_resource is None else {"max_resource": max_resource}
    return Experiment.from_python(
        run="simulated",
        parameters={"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)},
        objective={"metric": "loss", "target": target},
        search={"algorithm": searcher, "seed": SEARCH_SEED, "settings": settings},
        scheduler={"algorithm": algorithm, "settings": limits},
    )


@cache
def _plugin(kind: Any, name: str) -> Callable[..., Any]:
    made: Callable[..., Any] = load(kind, name)
    return made


def loss(config: Mapping[str, Any], step: int) -> float:
    """Return the objective's value after a step: lower with each of them."""
    return float((config["x"] - 0.3) ** 2 + 0.5 * config["y"] + 1.0 / (1 + step))


class SimulatedEngine(Engine):
    """The engine, spared the parsing of the experiment that it is given anyway."""

    def _replay(self, records: Sequence[Record]) -> dict[int, tuple[Record, Decision | None]]:
        self.state.experiment = self.experiment
        return super()._replay(records)


class ModelJournal(MemoryJournal):
    """A journal of which only what was synced is sure to outlive a power cut.

    Args:
        clock: The wall clock.
        records: What was there before.
        durable: So many of them every power cut leaves.

    Attributes:
        durable: See above.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        records: Sequence[Record],
        durable: int,
    ) -> None:
        super().__init__(clock, records)
        self.durable = durable
        self._kill_at = 0
        self._keep = False

    def die_at(self, record: int, keep: bool) -> None:
        """Have the driver die at a record.

        Args:
            record: Which one from now on, from 1; 0 for none.
            keep: Whether that record is still kept.
        """
        self._kill_at, self._keep = record, keep

    def append(self, type: str, **fields: Any) -> Record:
        """Keep a record and return it, unless this is where the driver dies."""
        self._kill_at -= 1
        if self._kill_at == 0 and not self._keep:
            raise DriverDied
        record = super().append(type, **fields)
        if self._kill_at == 0:
            raise DriverDied
        return record

    def sync(self) -> None:
        """Bring all records to disk."""
        self.durable = len(self.records)


class WatchedSearcher:
    """A searcher, with a note of all that it is told and asked."""

    def __init__(
        self, inner: Searcher, session: int, note: Callable[[seen.Observation], None]
    ) -> None:
        self._inner = inner
        self._session = session
        self._note = note

    def suggest(self, trial: int) -> Config | None:
        """Pass on, and note."""
        config = self._inner.suggest(trial)
        self._note(seen.Suggested(self._session, trial, config))
        return config

    def adopt(self, trial: int, config: Config) -> None:
        """Pass on, and note."""
        self._note(seen.Adopted(self._session, trial, config))
        self._inner.adopt(trial, config)

    def report(
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...] = ()
    ) -> None:
        """Pass on."""
        self._inner.report(trial, step, values, violations)

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Pass on, and note."""
        self._note(seen.Told(self._session, trial, outcome.state.value, outcome.values))
        self._inner.observe(trial, outcome)

    def state(self) -> dict[str, Any]:
        """Pass on."""
        return self._inner.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Pass on."""
        self._inner.restore(state)


def make_searcher(experiment: Experiment) -> Searcher:
    """Return a new searcher."""
    search = experiment.search
    searcher: Searcher = _plugin("searchers", search.algorithm)(
        experiment.search_space, experiment.objectives, search.seed, **search.settings
    )
    return searcher


def make_scheduler(experiment: Experiment) -> Scheduler:
    """Return a new scheduler."""
    scheduler: Scheduler = _plugin("schedulers", experiment.scheduler.algorithm)(
        experiment.search_space,
        experiment.objectives,
        experiment.search.seed,
        **experiment.scheduler.settings,
    )
    return scheduler
