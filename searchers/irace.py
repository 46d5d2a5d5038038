"""Sampling around the best configs of a race, ever nearer to them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import gammaln, ndtr, ndtri

from raytune_hpo.axes import Axis, Choice, Ordinal
from raytune_hpo.objective import Objective, StepMean
from raytune_hpo.searchers.base import check_at_least_one
from raytune_hpo.searchers.untried import UntriedSearcher
from raytune_hpo.space import Cube, SearchSpace
from raytune_hpo.standing import FAILED, standing
from raytune_hpo.trial import Config, Outcome, TrialState

_FIRST_SD = 0.5
"""Of a parameter's range."""
_ALIKE = 1e-4
"""Elites whose numbers all lie within such a part of their ranges are the same."""
_COPY = 0.2
"""The chance that all of d categories are the parent's is never higher."""


class IraceSearcher(UntriedSearcher):
    """Proposes configs near one of the elites: the trials with the most steps, then the best.

    The first trials are random. After that, each proposal has a parent among the elites, a better
    one more often. Its numbers come from a normal distribution around the parent's, cut off at the
    bounds, and its categories are the parent's ever more often. The standard deviation shrinks by
    the factor ``iteration_trials ** (-1 / d)`` with d parameters in as many trials. When the
    parent and another elite are the same, it is as wide as two iterations before.

    With ``at: mean`` trials that still run can be elites too, by their mean so far.

    Args:
        space: What to search; priors and ``log`` shape the first proposals and the scale.
        objective: One goal, with or without constraints.
        seed: Each proposal draws from its own generator, seeded by this and the trial's number.
        iteration_trials: Trials that are random in the beginning, and in which the search narrows
            by one step. A budget of ``floor(2 + log2(d))`` times as many goes best with it.
        elites: Trials that can be parents; None for ``floor(2 + log2(d))``.

    Raises:
        SpecError: When a setting is out of range.

    Source: Lopez-Ibanez et al. 2016, doi:10.1016/j.orp.2016.09.002, section 2.2. There the steps
    are between races that all trials wait for; here they are spread over the trials.

    Example:
        >>> from raytune_hpo.space import Float
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> searcher = IraceSearcher(space, Objective.of("loss"), seed=1)
        >>> for trial in range(60):
        ...     loss = (searcher.suggest(trial)["x"] - 0.3) ** 2
        ...     searcher.observe(trial, Outcome(TrialState.COMPLETED, (loss,)))
        >>> min(abs(config["x"] - 0.3) for config, _ in searcher.trials.values()) < 0.01
        True
    """

    several_goals = False

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        iteration_trials: int = 20,
        elites: int | None = None,
    ) -> None:
        super().__init__(space, objective, seed)
        d = max(1, len(space.dimensions))
        # Section 2.2: the number of iterations, and of configurations that survive a race.
        self._iterations = math.floor(2 + math.log2(d))
        self.elites = self._iterations if elites is None else elites
        self.iteration_trials = iteration_trials
        check_at_least_one(iteration_trials=iteration_trials, elites=self.elites)
        # Values of each category, which have no order; 1 for a number.
        sizes = [_categories(axis) for axis in space.axes.values()]
        self._sizes = np.array(sizes, dtype=float)
        self._unordered = self._sizes > 1
        self._means = objective.goals[0].at == "mean"
        self._running: dict[int, tuple[StepMean, tuple[float, ...]]] = {}

    def propose(self, trial: int) -> Config | None:
        """Return a config near an elite, or a random one in the beginning."""
        rng = self.random(trial)
        if self.exhausted:
            return None
        elites = self._elites() if len(self.trials) >= self.iteration_trials else []
        if not elites or not self.space.dimensions:
            return self.untried(lambda: self.space.sample(rng), rng)
        return self.untried(lambda: self._child(elites, rng), rng)

    def report(
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...] = ()
    ) -> None:
        """Keep the mean of a running trial."""
        if self._means and all(map(math.isfinite, values)):
            mean, _ = self._running.get(trial, (StepMean(), ()))
            mean.take(step, values)
            self._running[trial] = mean, violations

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial."""
        super().observe(trial, outcome)
        self._running.pop(trial, None)

    def state(self) -> dict[str, Any]:
        """Return the table and the means of the running trials as JSON values."""
        running = [
            [trial, mean.steps, mean.last, list(mean.mean), list(violations)]
            for trial, (mean, violations) in self._running.items()
        ]
        return {**super().state(), "running": running}

    def restore(self, state: dict[str, Any]) -> None:
        """Rebuild the table, and take over the means."""
        super().restore(state)
        self._running = {
            trial: (StepMean(steps, last, tuple(mean)), tuple(violations))
            for trial, steps, last, mean, violations in state["running"]
        }

    def _elites(self) -> list[Cube]:
        """Return the places of the elites, the best first."""
        known = {trial: outcome for trial, (_, outcome) in self.trials.items() if outcome}
        for trial, (mean, violations) in self._running.items():
            known[trial] = Outcome(TrialState.COMPLETED, mean.mean, violations, mean.steps)
        keys = []
        for trial, outcome in known.items():
            found = standing(self.objective, outcome)
            if found is not None and found is not FAILED:
                keys.append((found.violation, -outcome.step, found.values, trial))
        return [self.space.encode(self.trials[key[-1]][0]) for key in sorted(keys)[: self.elites]]

    def _child(self, elites: list[Cube], rng: np.random.Generator) -> Config:
        """Return a config drawn around an elite; what that has not is drawn at random."""
        weights = np.arange(len(elites), 0, -1.0)  # equation 1
        chosen = int(rng.choice(len(elites), p=weights / weights.sum()))
        parent = elites[chosen]
        # In the middle of iteration 1 + s of section 2.2 it is s.
        narrowed = len(self.trials) / self.iteration_trials - 0.5
        if any(self._alike(parent, other) for i, other in enumerate(elites) if i != chosen):
            narrowed = max(narrowed - 2, 0.0)  # the soft restart
        number = near(parent, self._sd(narrowed), rng)
        category = copied(parent, self._sizes, self._certain(narrowed), rng)
        drawn = np.where(self._unordered, category, number)
        return self.space.decode(np.where(np.isnan(parent), rng.random(len(parent)), drawn))

    def _sd(self, narrowed: float) -> float:
        """Return the standard deviation after so many iterations, as a part of the range."""
        shrunk = _FIRST_SD * float(self.iteration_trials ** (-narrowed / len(self._sizes)))
        return max(shrunk, _ALIKE)

    def _certain(self, narrowed: float) -> Cube:
        """Return the chance of each category to be the parent's.

        Section 2.2: in iteration j all chances are multiplied by ``1 - (j - 1) / iterations``, and
        what is missing to 1 is given to the parent's category. So the product of these factors is
        left of the first, uniform distribution.
        """
        left = 0.0
        if narrowed < self._iterations:
            factors = gammaln(self._iterations) - gammaln(self._iterations - narrowed)
            left = math.exp(factors - narrowed * math.log(self._iterations))
        even = 1 / self._sizes
        most = np.maximum(_COPY ** (1 / len(self._sizes)), even)
        certain: Cube = np.minimum(1 - left + left * even, most)
        return certain

    def _alike(self, u: Cube, v: Cube) -> bool:
        """Return whether two configs are the same as far as sampling can tell."""
        there = ~np.isnan(u)
        if not np.array_equal(there, ~np.isnan(v)):
            return False
        return bool((np.abs(u - v)[there] <= np.where(self._unordered, 0.0, _ALIKE)[there]).all())


def near(u: Cube, sd: float, rng: np.random.Generator) -> Cube:
    """Return a point from the normal distribution around another, cut off at the unit cube.

    Args:
        u: Shape (d,); NaN gives NaN.
        sd: Of each coordinate, above 0.
        rng: Draws it.
    """
    low, high = ndtr(-u / sd), ndtr((1 - u) / sd)
    drawn: Cube = u + sd * ndtri(low + rng.random(len(u)) * (high - low))
    return np.clip(drawn, 0.0, 1.0)


def copied(u: Cube, sizes: Cube, certain: Cube, rng: np.random.Generator) -> Cube:
    """Return a point whose coordinates are another's or, alike likely, any other category's.

    Args:
        u: Shape (d,); NaN gives NaN.
        sizes: Shape (d,); the number of categories.
        certain: Shape (d,); the chance that a coordinate is the same.
        rng: Draws it.
    """
    stays, other = rng.random((2, len(u)))
    step = 1 + np.floor(other * (sizes - 1))
    place = (np.floor(u * sizes) + np.where(stays < certain, 0.0, step)) % sizes
    drawn: Cube = (place + 0.5) / sizes
    return drawn


def _categories(axis: Axis) -> int:
    return axis.size if isinstance(axis, Choice) and not isinstance(axis, Ordinal) else 1
