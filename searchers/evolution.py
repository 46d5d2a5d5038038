"""Evolution of a population, for one goal or several."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from raytune_hpo.axes import Choice, Ordinal
from raytune_hpo.errors import Problem, SpecError
from raytune_hpo.nondominated import Place, places
from raytune_hpo.objective import Objective
from raytune_hpo.searchers.base import check_at_least_one
from raytune_hpo.searchers.untried import UntriedSearcher
from raytune_hpo.space import Cube, SearchSpace
from raytune_hpo.standing import Standing, standing
from raytune_hpo.trial import Config, Outcome

_CROSSED = 0.9
"""Share of children that have two parents."""
_CROSSOVER_INDEX = 3.0
"""Higher values keep children nearer to their parents."""
_MUTATION_INDEX = 20.0
"""Higher values make mutations smaller: with 20 they are 0.05 of the range on average."""


class EvolutionSearcher(UntriedSearcher):
    """Proposes children of the best trials so far.

    The parents are the best of a few members drawn from the population. Their places in the unit
    cube are crossed and mutated; a category is one parent's or any. Every trial that ends joins the
    population, which then loses its worst member, so no trial waits for others. Failed trials are
    worse than all others, and those that violate constraints worse than those that do not. With
    several goals this is NSGA-II. In a finite space no config is proposed twice.

    Args:
        space: What to search; priors and ``log`` shape the first proposals and the scale.
        objective: One goal or several, with or without constraints.
        seed: Each proposal draws from its own generator, seeded by this and the trial's number.
        population: Members, and trials that are random in the beginning; None for 15 with one goal
            and 30 with several, whose front needs the room.
        tournament: A parent is the best of so many members; higher values are greedier.
        mutations: Parameters that change at random in a child, on average.

    Raises:
        SpecError: When a setting is out of range.

    Source: Deb et al. 2002, doi:10.1109/4235.996017 (NSGA-II), in its steady-state form; Deb and
    Agrawal 1995, Complex Systems 9, 115-148 (crossover).

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> from raytune_hpo.trial import TrialState
        >>> space = SearchSpace({"x": Float(0, 1)})
        >>> searcher = EvolutionSearcher(space, Objective.of("loss"), seed=1)
        >>> for trial in range(60):
        ...     loss = (searcher.suggest(trial)["x"] - 0.3) ** 2
        ...     searcher.observe(trial, Outcome(TrialState.COMPLETED, (loss,)))
        >>> min(abs(config["x"] - 0.3) for config, _ in searcher.trials.values()) < 0.01
        True
    """

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        population: int | None = None,
        tournament: int = 3,
        mutations: float = 1.0,
    ) -> None:
        super().__init__(space, objective, seed)
        _check(population, mutations)
        check_at_least_one(tournament=tournament)
        self.population = population or (30 if objective.multi else 15)
        self.tournament = tournament
        self.mutations = mutations
        self._unordered = np.array([_unordered(axis) for axis in space.axes.values()], dtype=bool)
        self._alive: dict[int, Standing] = {}
        self._places: dict[int, Place] = {}
        self._startup = self.population

    def propose(self, trial: int) -> Config | None:
        """Return a child of the population, or a random config in the beginning."""
        rng = self.random(trial)
        if self.exhausted:
            return None
        if self._startup > 0 or not self.space.dimensions:
            return self.untried(lambda: self.space.sample(rng), rng)
        family = self._family(rng)
        return self.untried(lambda: next(family), rng)

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial; it joins the population in place of the worst member."""
        super().observe(trial, outcome)
        _, kept = self.trials[trial]
        found = None if kept is None else standing(self.objective, kept)
        if found is None:
            return
        self._startup -= 1
        self._alive[trial] = found
        self._places = dict(zip(self._alive, places(list(self._alive.values())), strict=True))
        if len(self._alive) > self.population:
            # Of equals the oldest goes, so that the population drifts over a plateau.
            worst = max(self._alive, key=lambda member: (self._places[member], -member))
            del self._alive[worst], self._places[worst]

    def _family(self, rng: np.random.Generator) -> Iterator[Config]:
        """Yield a child, then ever more distant relatives of it, in case it was tried already."""
        config = self._child(rng)
        while True:
            yield config
            config = self.neighbour(config, rng)

    def _child(self, rng: np.random.Generator) -> Config:
        first, second = self._places_of(self._parent(rng), self._parent(rng), rng)
        u = crossed(first, second, self._unordered, rng) if rng.random() < _CROSSED else first
        changed = rng.random(len(u)) < self.mutations / len(u)
        return self.space.decode(np.where(changed, mutated(u, self._unordered, rng), u))

    def _parent(self, rng: np.random.Generator) -> int:
        size = min(self.tournament, len(self._alive))
        drawn = rng.choice(list(self._alive), size=size, replace=False)
        return min((int(member) for member in drawn), key=lambda m: (self._places[m], m))

    def _places_of(self, a: int, b: int, rng: np.random.Generator) -> tuple[Cube, Cube]:
        """Return two trials in the unit cube; what one has not is the other's, or random."""
        u, v = (self.space.encode(self.trials[trial][0]) for trial in (a, b))
        rest = rng.random(len(u))
        u, v = np.where(np.isnan(u), v, u), np.where(np.isnan(v), u, v)
        return np.where(np.isnan(u), rest, u), np.where(np.isnan(v), rest, v)


def crossed(u: Cube, v: Cube, unordered: npt.NDArray[np.bool_], rng: np.random.Generator) -> Cube:
    """Return a point near one of two others, the nearer the closer these are to one another.

    Each coordinate is crossed or the first parent's, with equal chances; an unordered one is either
    parent's.
    """
    r, side, is_crossed = rng.random((3, len(u)))
    power = 1 / (_CROSSOVER_INDEX + 1)
    spread = np.where(r <= 0.5, (2 * r) ** power, (1 / (2 * (1 - r))) ** power)
    near, far = np.where(side < 0.5, u, v), np.where(side < 0.5, v, u)
    child = np.clip(((1 + spread) * near + (1 - spread) * far) / 2, 0.0, 1.0)
    return np.where(unordered, near, np.where(is_crossed < 0.5, child, u))


def mutated(u: Cube, unordered: npt.NDArray[np.bool_], rng: np.random.Generator) -> Cube:
    """Return a point near another one, in each coordinate; an unordered one is anywhere."""
    r = rng.random(len(u))
    power = 1 / (_MUTATION_INDEX + 1)
    step = np.where(r < 0.5, (2 * r) ** power - 1, 1 - (2 * (1 - r)) ** power)
    return np.where(unordered, rng.random(len(u)), np.clip(u + step, 0.0, 1.0))


def _unordered(axis: object) -> bool:
    return isinstance(axis, Choice) and not isinstance(axis, Ordinal)


def _check(population: int | None, mutations: float) -> None:
    problems = []
    if population is not None and population < 2:
        text = f"must be at least 2, not {population!r}"
        problems.append(Problem("search.settings.population", text))
    if not mutations >= 0:
        text = f"must not be negative, but is {mutations!r}"
        problems.append(Problem("search.settings.mutations", text))
    if problems:
        raise SpecError(problems)
