"""The model of BOHB: tree-structured Parzen estimators over the values at one rung."""

from __future__ import annotations

import math
import sys
from typing import Any, ClassVar, Literal

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.searchers.base import check_at_least_one
from raytune_hpo.searchers.parzen import ParzenModel
from raytune_hpo.searchers.untried import UntriedSearcher
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config, Outcome, TrialState

_END = sys.maxsize
"""The rung above all others: where trials that completed ended."""

Entries = dict[int, tuple[tuple[float, ...], tuple[float, ...]]]
"""Values and violations at one rung, by trial."""


class BohbSearcher(UntriedSearcher):
    """Proposes configs that are likely among the good trials at the highest usable rung.

    For Hyperband and ASHA: values of trials that were stopped early are compared with one another,
    not with those of trials that went on. Rung k is reached by the first report at step
    ``reduction_factor ** k`` or later; above all others is the end of completed trials. The model
    is that of ``tpe``, over the trials with a value at the highest rung that enough have reached.
    Pending trials that are not there yet count among the others. In a finite space no config is
    proposed twice.

    Args:
        space: What to search; priors shape the random proposals and the scale of the others.
        objective: One goal, with or without constraints.
        seed: Each proposal draws from its own generator, seeded by this and the trial's number.
        startup_trials: So many trials with a value make a rung usable, and never fewer than there
            are parameters and two more; before, proposals are random.
        reduction_factor: Ratio between neighbouring rungs, best that of the scheduler.
        random_fraction: Share of random proposals among the later ones, from 0 to 1: they bound the
            loss where values at low rungs mislead. The paper has a third.
        candidates: Configs drawn for each proposal, of which the most promising is taken.
        constant_liar: Keep away from the configs of pending trials.
        failures: ``avoid`` ranks failed trials as worse than all others; ``ignore`` forgets them,
            for failures that have nothing to do with the config.

    Raises:
        SpecError: When a setting is out of range.

    Source: Falkner et al. 2018, arXiv:1807.01774, Algorithm 2, with Optuna's multivariate TPE for
    its density estimators.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> searcher = BohbSearcher(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> for trial in range(30):
        ...     loss = searcher.suggest(trial)["x"] ** 2
        ...     searcher.report(trial, 1, (loss,))
        ...     searcher.observe(trial, Outcome(TrialState.PRUNED, (loss,), step=1))
        >>> min(config["x"] for config, _ in searcher.trials.values()) < 0.05
        True
    """

    several_goals: ClassVar[bool] = False

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        startup_trials: int = 10,
        reduction_factor: float = 3,
        random_fraction: float = 0.1,
        candidates: int = 24,
        constant_liar: bool = True,
        failures: Literal["avoid", "ignore"] = "avoid",
    ) -> None:
        super().__init__(space, objective, seed)
        check_at_least_one(startup_trials=startup_trials, candidates=candidates)
        _check(reduction_factor, random_fraction)
        self.need = max(startup_trials, len(space.dimensions) + 2)
        self.reduction_factor = reduction_factor
        self.random_fraction = random_fraction
        self.candidates = candidates
        self.constant_liar = constant_liar
        self.failures = failures
        self._rungs: dict[int, Entries] = {}
        self._forget_model()

    def propose(self, trial: int) -> Config | None:
        """Return the most promising config, or a random one."""
        rng = self.random(trial)
        if self.exhausted:
            return None
        rung = self._usable_rung()
        if rung is None or rng.random() < self.random_fraction:
            return self.untried(lambda: self.space.sample(rng), rng)
        config = self._model_of(rung).promising(int(rng.integers(2**32)))
        if not self.tried(config):
            return config
        return self.untried(lambda: self.neighbour(config, rng), rng)

    def report(
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...] = ()
    ) -> None:
        """Keep the first value at each rung."""
        if step >= 1:
            self._enter(self._rung_of(step), trial, values, violations)

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial; one that failed leaves the rungs that it had reached."""
        super().observe(trial, outcome)
        if outcome.state is TrialState.FAILED:
            for entries in self._rungs.values():
                entries.pop(trial, None)
            self._forget_model()
        elif outcome.values is not None:
            self.report(trial, outcome.step, outcome.values, outcome.violations)
            if outcome.state is TrialState.COMPLETED:
                self._enter(_END, trial, outcome.values, outcome.violations)

    def state(self) -> dict[str, Any]:
        """Return the table and the rungs as JSON values."""
        rungs = [
            [rung, [[trial, *map(list, entry)] for trial, entry in entries.items()]]
            for rung, entries in self._rungs.items()
        ]
        return {**super().state(), "rungs": rungs}

    def restore(self, state: dict[str, Any]) -> None:
        """Rebuild the table, and take over the rungs."""
        super().restore(state)
        self._rungs = {
            rung: {trial: (tuple(values), tuple(over)) for trial, values, over in entries}
            for rung, entries in state["rungs"]
        }
        self._forget_model()

    # Rungs

    def _rung_of(self, step: int) -> int:
        """Return the highest rung that a report at a step is an entry of."""
        rung = 0
        while self.reduction_factor ** (rung + 1) <= step:
            rung += 1
        return rung

    def _enter(
        self, rung: int, trial: int, values: tuple[float, ...], violations: tuple[float, ...]
    ) -> None:
        if all(map(math.isfinite, values)):
            self._rungs.setdefault(rung, {}).setdefault(trial, (values, violations))

    def _usable_rung(self) -> int | None:
        """Return the highest rung that enough trials have reached, or None."""
        usable = (rung for rung, entries in self._rungs.items() if len(entries) >= self.need)
        return max(usable, default=None) if self.space.dimensions else None

    # The model: made anew for another rung, else only brought up to date

    def _forget_model(self) -> None:
        self._modelled: tuple[int, ParzenModel] | None = None
        self._pending: set[int] = set()
        self._known = 0

    def _model_of(self, rung: int) -> ParzenModel:
        """Return the model of a rung with all trials in it."""
        if self._modelled is None or self._modelled[0] != rung:
            self._forget_model()
            self._modelled = rung, self._new_model()
        model = self._modelled[1]
        for trial in list(self.trials)[self._known :]:
            model.add(trial, self.trials[trial][0])
            self._pending.add(trial)
        self._known = len(self.trials)
        self._pending = {t for t in sorted(self._pending) if not self._ended(model, rung, t)}
        return model

    def _new_model(self) -> ParzenModel:
        return ParzenModel(
            self.space,
            self.objective,
            candidates=self.candidates,
            constant_liar=self.constant_liar,
        )

    def _ended(self, model: ParzenModel, rung: int, trial: int) -> bool:
        """Tell the model how a trial ended as seen from a rung; False while that is open."""
        outcome = self.trials[trial][1]
        entry = self._rungs[rung].get(trial)
        if entry is not None:
            model.end(trial, *entry)
        elif outcome is None:
            return False
        elif outcome.state is TrialState.FAILED and self.failures == "avoid":
            model.end_as_worst(trial)
        else:
            model.forget(trial)
        return True


def _check(reduction_factor: float, random_fraction: float) -> None:
    problems = []
    if not 1 < reduction_factor < math.inf:
        text = f"must be above 1, not {reduction_factor!r}"
        problems.append(Problem("search.settings.reduction_factor", text))
    if not 0 <= random_fraction <= 1:
        text = f"must be from 0 to 1, not {random_fraction!r}"
        problems.append(Problem("search.settings.random_fraction", text))
    if problems:
        raise SpecError(problems)
