"""Bayesian optimisation with Gaussian processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc
from threadpoolctl import ThreadpoolController

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.searchers import gaussian
from raytune_hpo.searchers.acquisition import Below, Hill, Improvement, Thompson, Total
from raytune_hpo.searchers.evidence import Evidence, collect
from raytune_hpo.searchers.features import Features
from raytune_hpo.searchers.gaussian import Draw, Hyper, Priors, Process
from raytune_hpo.searchers.hilltop import climb, mutations
from raytune_hpo.searchers.improvement import log_improvement
from raytune_hpo.searchers.untried import UntriedSearcher
from raytune_hpo.searchers.warp import Warped, scaled, warp
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config

Matrix = npt.NDArray[np.float64]
Acquisition = Literal["ei", "pi", "ucb", "thompson", "hedge"]
Kept = npt.NDArray[np.int64]

_GOAL = Priors(noise=(math.log(1e-5), 1.5))
"""Of the objective when configs are compared. It holds values for nearly exact: taking noise for
ripples costs less regret than taking ripples for noise, see docs/search-quality.md."""
_NOISY = Priors(noise=(math.log(1e-3), 2.5))
"""Of the objective when it is asked how much is left to gain: noise must not count as gain."""
_SIDE = Priors(noise=(math.log(1e-2), 2.0))
"""Of constraints and failures."""
_LEAST = 3
"""Values that a model is made from at the least."""
_FITTED = 150
"""Observations that hyperparameters are learnt from at the most."""
_KEPT = 400
"""Observations that a model holds at the most."""
_LATELY = 10
"""Each failure among so many last trials makes the chance to run count once more. Where a trial
that runs has little left to gain, failing ones would be proposed for ever otherwise."""
_CENTRES = 5
"""Good configs that the search for the highest acquisition begins from."""
_MUTATIONS = 0.25
"""Share of proposals that change a good config at random when the model is stuck: it may be wrong,
and sure of it."""
_PATIENCE = 10
"""After so many ended trials without a better one the model counts as stuck."""
_PARENTS = 3
_DRAWN = 8
"""Sets of hyperparameters that an expected improvement is averaged over."""
_KAPPA = 2.0
_EXPLORING = 0.05
"""Weight of the sum beside the maximum when several goals are made one."""


class BoSearcher(UntriedSearcher):
    """Proposes the config from which a Gaussian process expects the most improvement.

    The process has a length scale for each parameter and learns how noisy the values are. Values
    worse than the median count by rank only. Pending trials are taken to give what is predicted of
    them. Constraints, and failures, are learnt by processes of their own: a config counts by the
    improvement times the probability that it can run and violates nothing. With several goals, each
    proposal draws how they are weighed. When nothing better is found any more, one proposal in four
    is one of the best configs with a random change. In a finite space no config is proposed twice.

    Args:
        space: What to search; the first proposals follow the priors.
        objective: One goal or several, with or without constraints.
        seed: Each proposal draws from its own generator, seeded by this and the trial's number.
        startup_trials: So many trials are spread evenly at first; None for one more than there are
            parameters, from 5 to 10.
        acquisition: What is maximised: ``ei``, the expected improvement; ``pi``, the probability of
            improvement; ``ucb``, the confidence bound; ``thompson``, a drawn function; ``hedge``,
            one of the first three, drawn for each trial.
        failures: ``avoid`` learns where trials fail; ``ignore`` forgets them, for failures that
            have nothing to do with the config.

    Raises:
        SpecError: When a setting is out of range.

    Source: Jones et al. 1998, doi:10.1023/A:1008306431147; Snoek et al. 2012, arXiv:1206.2944;
    Ament et al. 2023, arXiv:2310.20708 (logarithm of the improvement); Knowles 2006,
    doi:10.1109/TEVC.2005.851274 (several goals).

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> from raytune_hpo.trial import Outcome, TrialState
        >>> searcher = BoSearcher(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> for trial in range(12):
        ...     loss = (searcher.suggest(trial)["x"] - 0.7) ** 2
        ...     searcher.observe(trial, Outcome(TrialState.COMPLETED, (loss,)))
        >>> min(abs(config["x"] - 0.7) for config, _ in searcher.trials.values()) < 0.01
        True
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        startup_trials: int | None = None,
        acquisition: Acquisition = "ei",
        failures: Literal["avoid", "ignore"] = "avoid",
    ) -> None:
        super().__init__(space, objective, seed)
        if startup_trials is not None and startup_trials < 1:
            text = f"must be at least 1, not {startup_trials!r}"
            raise SpecError([Problem("search.settings.startup_trials", text)])
        parameters = len(space.dimensions)
        self.startup_trials = startup_trials or min(max(parameters + 1, 5), 10)
        self.acquisition = acquisition
        self.failures = failures
        self._features = Features(space)
        self._cubes: dict[int, Matrix] = {}
        self._learnt: dict[str, tuple[int, Hyper]] = {}
        # Several threads cost more than they bring at this size, and their sums differ in bits.
        self._threads = ThreadpoolController()

    def adopt(self, trial: int, config: Config) -> None:
        """Keep a config as pending."""
        super().adopt(trial, config)
        self._cubes[trial] = self.space.encode(config)

    def propose(self, trial: int) -> Config | None:
        """Return the config of the most promising point, or one of an even spread at first."""
        if self.exhausted:
            return None
        rng = self.random(trial)
        evidence = self._evidence()
        if len(self.trials) < self.startup_trials or len(evidence.values) < _LEAST:
            return self.untried(self._spread(), rng)
        if _stuck(evidence) and rng.random() < _MUTATIONS:
            points = mutations(self._features, _best(evidence)[:_PARENTS], rng)
        else:
            with self._threads.limit(limits=1):
                points = climb(self._hill(evidence, rng), self._features, _best(evidence), rng)
        configs = map(self.space.decode, points)
        found = next((config for config in configs if not self.tried(config)), None)
        return found or self.untried(lambda: self.space.sample(rng), rng)

    def expected_improvement(self) -> float | None:
        """Return what the next trial is expected to gain on the best one, in the goal's unit.

        Averaged over what the hyperparameters may be, and times the probability that the config can
        run and violates nothing. It costs as much as several suggestions.

        Returns:
            None while the first trials have not ended, there is no feasible trial, or more than
            one goal.

        Source: Snoek et al. 2012, arXiv:1206.2944, section 3.1 (integrated acquisition).
        """
        evidence = self._evidence()
        if len(self.ended) < max(self.startup_trials, _LEAST) or len(evidence.values) < _LEAST:
            return None
        if self.objective.multi or not evidence.feasible.any():
            return None
        rng = np.random.default_rng([self.seed, len(self.trials), len(self.ended)])
        with self._threads.limit(limits=1):
            return self._integrated(evidence, rng)

    def _integrated(self, evidence: Evidence, rng: np.random.Generator) -> float:
        feasibility = Total(self._feasibility(evidence))
        warped = warp(evidence.values[:, 0])
        x, y = self._observed(evidence), warped.y
        likely = self._hyper("gain", x, y, _NOISY)
        process, best = self._process(evidence, warped, feasibility, likely)
        hill = Total([*feasibility.parts, Improvement(process, best)])
        top = climb(hill, self._features, _best(evidence), rng)[:1]
        kept = _kept(y, _FITTED)
        hypers = gaussian.sample(
            x[kept], y[kept], self._features.group, _NOISY, likely, _DRAWN, rng
        )
        at = self._features.embed(top)
        gains = [self._gain(evidence, x, y, hyper, at) for hyper in hypers]
        chance = math.exp(float(feasibility.height(at)[0]))
        return float(np.mean(gains)) * warped.unit * chance

    def _gain(self, evidence: Evidence, x: Matrix, y: Matrix, hyper: Hyper, at: Matrix) -> float:
        """Return the expected improvement at one place for some hyperparameters."""
        kept = _kept(y, _KEPT)
        process = Process(x[kept], y[kept], self._features.group, hyper)
        seen, _ = process.predict(self._held(evidence, kept))
        mean, variance = process.predict(at)
        return math.exp(float(log_improvement(mean, np.sqrt(variance), float(seen.min()))[0]))

    def _evidence(self) -> Evidence:
        return collect(self.trials, self.ended, self._cubes, self.objective)

    def _spread(self) -> Callable[[], Config]:
        """Return what gives the points of a Sobol sequence, from where the table ends."""
        parameters = len(self.space.dimensions)
        rng = np.random.default_rng(self.seed)
        sequence = qmc.Sobol(max(1, parameters), scramble=True, bits=60, rng=rng)
        ahead = 1 << (len(self.trials) + 32).bit_length()
        points = iter(sequence.random(ahead)[len(self.trials) :, :parameters])
        return lambda: self.space.decode(next(points))

    # The models

    def _observed(self, evidence: Evidence) -> Matrix:
        """Return the coordinates of the trials with values, as they were observed."""
        return self._features.embed(evidence.valued)

    def _held(self, evidence: Evidence, kept: Kept) -> Matrix:
        """Return the coordinates of the configs that are to be improved on."""
        return self._features.embed(evidence.valued[kept][evidence.feasible[kept]])

    def _hill(self, evidence: Evidence, rng: np.random.Generator) -> Hill:
        """Return what is to be maximised."""
        feasibility = Total(self._feasibility(evidence))
        if not evidence.feasible.any():
            return feasibility
        return Total([*feasibility.parts, self._promise(evidence, feasibility, rng)])

    def _promise(self, evidence: Evidence, feasibility: Hill, rng: np.random.Generator) -> Hill:
        """Return how much improvement on the feasible trials is to be expected."""
        values = _as_one_goal(evidence.values, rng)
        acquisition = self.acquisition
        if acquisition == "hedge":
            acquisition = ("ei", "pi", "ucb")[int(rng.integers(3))]
        process, best = self._process(evidence, warp(values), feasibility)
        if acquisition == "pi":
            return Below(process, best)
        if acquisition == "ucb":
            return _bound(process)
        if acquisition == "thompson":
            return Thompson(Draw(process, rng))
        return Improvement(process, best)

    def _process(
        self,
        evidence: Evidence,
        warped: Warped,
        feasibility: Hill,
        hyper: Hyper | None = None,
    ) -> tuple[Process, float]:
        """Return the model of the objective, and the best value according to it.

        Pending trials are taken to give what the model predicts of them, which leaves it sure of
        these places; those that are rather feasible are to be improved on too. Source: Ginsbourger
        et al. 2010, doi:10.1007/978-3-642-10701-6_6, section 4.2.1 (kriging believer).
        """
        y = warped.y
        group = self._features.group
        x = self._observed(evidence)
        # The weights of several goals are drawn anew each time, and so is what they give.
        name = None if self.objective.multi else "goal"
        hyper = hyper or self._hyper(name, x, y, _GOAL)
        kept = _kept(y, _KEPT)
        x, y = x[kept], y[kept]
        process = Process(x, y, group, hyper)
        seen, _ = process.predict(self._held(evidence, kept))
        best = float(seen.min())
        if len(evidence.pending):
            at = self._features.embed(evidence.pending)
            believed, _ = process.predict(at)
            process = Process(np.concatenate([x, at]), np.concatenate([y, believed]), group, hyper)
            rather = feasibility.height(at) > math.log(0.5)
            best = min([best, *believed[rather].tolist()])
        return process, best

    def _feasibility(self, evidence: Evidence) -> list[Below]:
        """Return the probabilities that a config violates nothing and can run."""
        x = self._observed(evidence)
        found = [
            self._side(f"constraint {index}", x, scaled(violations), 0.0)
            for index, violations in enumerate(evidence.violations.T)
        ]
        if self.failures == "avoid" and evidence.failed.any():
            x = self._features.embed(evidence.ended)
            chance = self._side("failure", x, np.where(evidence.failed, 1.0, -1.0), 0.0)
            lately = int(evidence.failed[-_LATELY:].sum())
            found.append(replace(chance, weight=1.0 + lately))
        return found

    def _side(self, name: str, x: Matrix, y: Matrix, limit: float) -> Below:
        """Return the probability that a quantity beside the objective is below a limit."""
        mean, sd = float(y.mean()), float(y.std())
        sd = sd if sd > 1e-9 * max(1.0, abs(mean)) else 1.0
        y = (y - mean) / sd
        hyper = self._hyper(name, x, y, _SIDE)
        kept = _kept(np.abs(y - (limit - mean) / sd), _KEPT)
        process = Process(x[kept], y[kept], self._features.group, hyper)
        return Below(process, (limit - mean) / sd, noise=hyper.noise)

    def _hyper(self, name: str | None, x: Matrix, y: Matrix, priors: Priors) -> Hyper:
        """Return hyperparameters, learnt again each time there is some more to learn from."""
        count = _fitted_at(len(y))
        if name is not None and name in self._learnt and self._learnt[name][0] == count:
            return self._learnt[name][1]
        x, y = x[:count], y[:count]
        kept = _kept(y, _FITTED)
        hyper = gaussian.fit(x[kept], y[kept], self._features.group, priors)
        if name is not None:
            self._learnt[name] = count, hyper
        return hyper


def _stuck(evidence: Evidence) -> bool:
    """Return whether the last trials have brought nothing better; not told of several goals."""
    if evidence.values.shape[1] > 1 or not evidence.feasible.any():
        return False
    values = np.where(evidence.feasible, evidence.values[:, 0], np.inf)
    return len(values) - 1 - int(np.argmin(values)) >= _PATIENCE


def _bound(process: Process) -> Hill:
    from bayes_opt.acquisition import UpperConfidenceBound

    from raytune_hpo.searchers.confidence import Bound

    return Bound(process, UpperConfidenceBound(_KAPPA))


def _best(evidence: Evidence) -> Matrix:
    """Return the configs around which to search: the best feasible ones, then the least bad."""
    violation = np.where(evidence.violations > 0, evidence.violations, 0.0).sum(axis=1)
    order = np.lexsort((evidence.values.sum(axis=1), violation))
    return evidence.valued[order[:_CENTRES]]


def _as_one_goal(values: Matrix, rng: np.random.Generator) -> Matrix:
    """Return values of shape (n, goals) as shape (n,), by weights that are drawn.

    Source: Knowles 2006, equation 2 (augmented Tchebycheff), over values warped one by one.
    """
    goals = values.shape[1]
    if goals == 1:
        return values[:, 0]
    weights = rng.dirichlet(np.ones(goals))
    each = np.stack([warp(column).y for column in values.T], axis=1)
    each = (each - each.min(axis=0)) * weights
    return np.asarray(each.max(axis=1) + _EXPLORING * each.sum(axis=1))


def _fitted_at(count: int) -> int:
    """Return from how many of so many observations the hyperparameters are learnt.

    A fixed series, so that a replay learns from the same ones: all up to 30, then every 5 %.
    """
    at = min(count, 30)
    while at + at // 20 <= count and at >= 30:
        at += at // 20
    return at


def _kept(y: Matrix, most: int) -> Kept:
    """Return which observations a model holds: the lowest half, and others evenly over time."""
    if len(y) <= most:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    lowest, rest = order[: most // 2], np.sort(order[most // 2 :])
    even = np.linspace(0, len(rest) - 1, most - len(lowest)).astype(int)
    return np.sort(np.concatenate([lowest, rest[even]]))
