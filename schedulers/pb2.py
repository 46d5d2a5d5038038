"""Population-based bandits: population-based training that learns which changes help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from raytune_hpo.axes import Axis, Choice, Ordinal
from raytune_hpo.errors import Problem
from raytune_hpo.objective import Objective
from raytune_hpo.schedulers.bandit import Matrix, Rows, fitted, upper_bound
from raytune_hpo.schedulers.perturb import assembled, perturbed
from raytune_hpo.schedulers.population import Member, Population, share_problem
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Config

_LEAST = 4
"""So many gains are needed to learn from."""
_MOST = 200
"""So many are learnt from, the newest: the fit's cost grows with the third power."""
_ANYWHERE, _NEARBY = 1000, 250
"""Places that are looked at: in the whole cube, and near the parent."""
_NEAR = 0.1
_PERTURBED = (0.8, 1.2)


class Gain(NamedTuple):
    """What a trial gained in an interval: its number, the trial's config and the improvement."""

    interval: int
    config: Config
    gain: float


class Pb2(Population):
    """Replaces the worst trials by forks of the best ones, with configs that promise most.

    What each config gained in each interval is modelled by a Gaussian process over time and config,
    and a fork gets the config with the highest upper confidence bound for the interval to come.
    This is for numbers and ordered values; a parameter without an order is the parent's, or drawn
    anew with the chance ``resample``. While there are fewer than 4 gains a fork is perturbed as by
    ``pbt``. ``Population`` says who is replaced and when.

    Args:
        space: That configs belong to; priors and ``log`` make the scale of the model.
        objective: Has to have one goal. Gains are those of its value; constraints only say who is
            replaced.
        seed: Each fork draws from its own generator, seeded by this and the trial it replaces.
        interval: Of the resource, between two comparisons; a checkpoint is needed as often.
        resource: The metric that counts what a trial has used, such as ``epoch``; None counts its
            reports with an objective value.
        burn_in: No trial is replaced before it has used so much.
        quantile: Share of the population that is replaced, and share that is forked; at least one
            trial.
        max_resource: Trials are complete here; None leaves their end to them.
        resample: Chance of a parameter without an order to be drawn anew from the space.
        synchronous: All wait for one another at the end of each interval.
        fixed: Parameters that a fork keeps from its parent, such as the number of layers.

    Raises:
        SpecError: When settings are out of range or the objective has several goals.

    Source: Parker-Holder et al. 2020, arXiv:2002.02518, Algorithm 1.

    Example:
        >>> from raytune_hpo.space import Float
        >>> space = SearchSpace({"lr": Float(0.001, 1.0, log=True)})
        >>> pb2 = Pb2(space, Objective.of("loss"), seed=1, interval=2)
        >>> pb2.on_trial(0, {"lr": 0.1}, None)
        >>> pb2.next_move([], more=True) is None
        True
    """

    name = "pb2"

    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        *,
        interval: float = 5,
        resource: str | None = None,
        burn_in: float = 0,
        quantile: float = 0.25,
        max_resource: float | None = None,
        resample: float = 0.25,
        synchronous: bool = False,
        fixed: Sequence[str] = (),
    ) -> None:
        self.resample = resample
        self._threads = ThreadpoolController()
        super().__init__(
            space,
            objective,
            seed,
            interval=interval,
            resource=resource,
            burn_in=burn_in,
            quantile=quantile,
            max_resource=max_resource,
            synchronous=synchronous,
            fixed=fixed,
        )
        self._learnt = [
            name for name, axis in space.axes.items() if _ordered(axis) and name not in fixed
        ]

    def explored(self, parent: int, interval: int, rng: np.random.Generator) -> Config:
        """Return the config that may gain most in the next interval."""
        config = self.members[parent].config
        gains = self._gains()
        if not self._learnt or len(gains) < _LEAST:
            return perturbed(
                self.space,
                config,
                rng,
                factors=_PERTURBED,
                resample=self.resample,
                fixed=self.fixed,
            )
        # Threads cost more than they gain on matrices of this size.
        with self._threads.limit(limits=1):
            best = self._best(gains, config, interval + 1, rng)
        chosen = dict(zip(self._learnt, best, strict=True))

        def changed(name: str, axis: Axis) -> Any:
            if name in chosen:
                return axis.decode(float(chosen[name]))
            if name not in self.fixed and rng.random() < self.resample:
                return axis.decode(rng.random())
            return config[name]

        return assembled(self.space, config, changed, rng)

    def _problems(self) -> list[Problem]:
        return super()._problems() + share_problem("resample", self.resample)

    def _best(
        self, gains: Sequence[Gain], config: Config, interval: int, rng: np.random.Generator
    ) -> Matrix:
        """Return the place with the highest bound, shape (learnt parameters,)."""
        rows = self._rows([(gain.interval, gain.config) for gain in gains])
        y = _standardized(np.array([gain.gain for gain in gains]))
        own = self._rows([(interval, config)]).u
        near = own + _NEAR * rng.standard_normal((_NEARBY, len(self._learnt)))
        anywhere = rng.random((_ANYWHERE, len(self._learnt)))
        places = np.concatenate([anywhere, np.clip(near, 0.0, 1.0)])
        at = Rows(np.full(len(places), float(interval)), places)
        best: Matrix = places[np.argmax(upper_bound(fitted(rows, y), rows, y, self._pending(), at))]
        return best

    def _pending(self) -> Rows:
        """Return the configs of all that live, in the interval that they are in."""
        return self._rows([(m.passed + 1, m.config) for m in self.members.values() if m.alive])

    def _gains(self) -> list[Gain]:
        """Return the newest gains, in the order of intervals."""
        found = [gain for member in self.members.values() for gain in self._gains_of(member)]
        return sorted(found, key=lambda gain: gain.interval)[-_MOST:]

    def _gains_of(self, member: Member) -> list[Gain]:
        found = []
        before, since = member.inherited, member.born
        for interval, now in member.standings.items():
            if before is not None:
                gain = (before.values[0] - now.values[0]) / (interval - since)
                found.append(Gain(interval, member.config, gain))
            before, since = now, interval
        return found

    def _rows(self, points: Sequence[tuple[int, Config]]) -> Rows:
        """Return intervals and configs as rows; what is not there counts as its middle."""
        columns = [self.space.dimensions.index(name) for name in self._learnt]
        u = np.array([self.space.encode(config)[columns] for _, config in points])
        interval = np.array([float(interval) for interval, _ in points])
        return Rows(interval, np.where(np.isnan(u), 0.5, u))


def _ordered(axis: Axis) -> bool:
    return not isinstance(axis, Choice) or isinstance(axis, Ordinal)


def _standardized(gains: Matrix) -> Matrix:
    """Return gains with mean 0 and deviation 1.

    Those far out are cut off: a trial that diverges would make all others look alike.
    """
    low, high = np.quantile(gains, (0.25, 0.75))
    reach = 3 * (high - low)
    cut = np.clip(gains, low - reach, high + reach)
    spread = float(cut.std())
    standardized: Matrix = (cut - cut.mean()) / (spread if spread > 0 else 1.0)
    return standardized
