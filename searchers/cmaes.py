"""CMA-ES with margin and restarts, for numbers and categories together."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from cmaes import CatCMAwM

from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.objective import Objective
from raytune_hpo.searchers.catcma import Coordinates, Descent
from raytune_hpo.searchers.untried import UntriedSearcher, config_key
from raytune_hpo.space import Cube, SearchSpace
from raytune_hpo.standing import FAILED, Standing, standing
from raytune_hpo.trial import Config, Outcome

_ASKS = 10
"""How often a sample is drawn whose config was tried already."""


class CmaesSearcher(UntriedSearcher):
    """Proposes draws from a normal distribution that moves towards the good trials.

    It begins around the best trial that came from elsewhere, or around the middle of the space,
    which is then the first proposal. Once the distribution has converged it begins anew somewhere
    else with twice the population (IPOP). Only the order of the trials counts: failed ones are
    worse than all others, and those that violate constraints worse than those that do not. In a
    finite space no config is proposed twice.

    Args:
        space: What to search; priors and ``log`` shape the scale.
        objective: One goal, with or without constraints.
        seed: Each proposal draws from its own generator, seeded by this and the trial's number.
        population: Trials that make a generation, at least 4; None for 4 + 3 ln(parameters).
        sigma: Standard deviation in the beginning, as a share of each parameter's range.

    Raises:
        SpecError: When a setting is out of range.

    Source: Hamano et al. 2025, arXiv:2504.07884 (CatCMA with margin, in the package cmaes); Auger
    and Hansen 2005, doi:10.1109/CEC.2005.1554902 (restarts).

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> from raytune_hpo.trial import TrialState
        >>> searcher = CmaesSearcher(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> for trial in range(40):
        ...     loss = (searcher.suggest(trial)["x"] - 0.3) ** 2
        ...     searcher.observe(trial, Outcome(TrialState.COMPLETED, (loss,)))
        >>> min(abs(config["x"] - 0.3) for config, _ in searcher.trials.values()) < 0.01
        True
    """

    several_goals: ClassVar[bool] = False

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        population: int | None = None,
        sigma: float = 0.15,
    ) -> None:
        super().__init__(space, objective, seed)
        _check(population, sigma)
        self.coordinates = Coordinates(space)
        self.population = population or 4 + int(3 * math.log(max(self.coordinates.count, 1)))
        self.sigma = sigma
        self._descent: Descent | None = None
        self._begin()

    def propose(self, trial: int) -> Config | None:
        """Return the middle of the space first, then draws from the distribution."""
        if self.exhausted:
            return None
        rng = self.random(trial)
        if not self.trials or self._descent is None:
            return self.space.decode(self._middle())
        config: Config = {}
        for seed in self._seeds(trial):
            config = self._config(self._descent.ask(seed))
            if not self.tried(config):
                return config
        return self.untried(lambda: self.neighbour(config, rng), rng)

    def adopt(self, trial: int, config: Config) -> None:
        """Keep a config as pending."""
        super().adopt(trial, config)
        self._born[trial] = len(self.ended)
        self._join(trial)

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial."""
        super().observe(trial, outcome)
        self._end(trial)

    def state(self) -> dict[str, Any]:
        """Return the table, and how many trials had ended when each began, as JSON values."""
        return {**super().state(), "born": list(self._born.values())}

    def restore(self, state: dict[str, Any]) -> None:
        """Rebuild the table, then the distribution by a replay in the order of events."""
        self._descent = None  # the table knows no order between begins and ends
        super().restore(state)
        self._begin()
        ended = 0
        for trial, born in zip(self.trials, state["born"], strict=True):
            for other in self.ended[ended:born]:
                self._end(other)
            ended = born
            self._born[trial] = born
            self._join(trial)
        for other in self.ended[ended:]:
            self._end(other)

    # The descents

    def _begin(self) -> None:
        self._born: dict[int, int] = {}
        self._best: tuple[Standing, int] | None = None
        self._restarts = 0
        self._descent = self._descend(self._middle()) if self.coordinates.count else None

    def _descend(self, start: Cube) -> Descent:
        population = self.population * 2**self._restarts
        return Descent(self.coordinates, start, sigma=self.sigma, population=population)

    def _join(self, trial: int) -> None:
        """Make a trial a member of the descent, with the sample that it was drawn as if it was."""
        if self._descent is None:
            return
        config, _ = self.trials[trial]
        samples = (self._descent.ask(seed) for seed in self._seeds(trial))
        same = (s for s in samples if config_key(self._config(s)) == config_key(config))
        sample = next(same, None)
        drawn = sample is not None
        if sample is None:
            anywhere = self._descent.ask(self._seeds(trial)[0])
            sample = self.coordinates.moved(anywhere, self.space.encode(config))
        self._descent.join(trial, sample, drawn=drawn)

    def _end(self, trial: int) -> None:
        _, outcome = self.trials[trial]
        found = None if outcome is None else standing(self.objective, outcome)
        if found is None or self._descent is None:
            return
        self._best = min(self._best or (found, trial), (found, trial))
        if self._restarts == 0 and not self._descent.drawn:
            members = {t: s for t, s in self._descent.members.items() if t != trial}
            self._descent = self._descend(self._start(*self._best))
            self._descent.members = members
            return
        self._descent.end(trial, found)
        if self._descent.over:
            self._restarts += 1
            self._descent = self._descend(self._anywhere())

    def _start(self, best: Standing, trial: int) -> Cube:
        """Return the place of a trial, or any other when even the best has failed."""
        if best == FAILED:
            return self._anywhere()
        u = self.space.encode(self.trials[trial][0])
        return np.where(np.isnan(u), 0.5, u)

    # Points

    def _middle(self) -> Cube:
        return np.full(len(self.space.dimensions), 0.5)

    def _anywhere(self) -> Cube:
        rng = np.random.default_rng([self.seed, 1, self._restarts])
        return rng.random(len(self.space.dimensions))

    def _seeds(self, trial: int) -> list[int]:
        """Return the seeds of the samples that may become a trial, in order."""
        return [int(seed) for seed in self.random(trial).integers(2**32, size=_ASKS)]

    def _config(self, sample: CatCMAwM.Solution) -> Config:
        return self.space.decode(self.coordinates.cube(sample))


def _check(population: int | None, sigma: float) -> None:
    problems = []
    if population is not None and population < 4:
        text = f"must be at least 4, not {population!r}"
        problems.append(Problem("search.settings.population", text))
    if not 0 < sigma <= 1:
        text = f"must be above 0 and at most 1, not {sigma!r}"
        problems.append(Problem("search.settings.sigma", text))
    if problems:
        raise SpecError(problems)
