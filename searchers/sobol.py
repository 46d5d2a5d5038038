"""Quasi-random search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import qmc

from raytune_hpo.searchers.untried import LISTED, SequenceSearcher, config_key
from raytune_hpo.trial import Config

_BLOCK = 64
"""Points drawn at once; a power of two, as the sequence is balanced over such blocks."""
_PATIENCE = 4096
"""After so many points without a new config what is left of a finite space is listed."""


class SobolSearcher(SequenceSearcher):
    """Proposes the points of a scrambled Sobol sequence, which cover the space evenly.

    The configs follow the sequence whatever the outcomes. In a finite space no config is proposed
    twice.

    Source: Owen 1998, Journal of Complexity 14, 466-489 (scrambling); scipy.stats.qmc.Sobol.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> searcher = SobolSearcher(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> halves = {searcher.suggest(trial)["x"] < 0.5 for trial in range(2)}
        >>> sorted(halves)
        [False, True]
    """

    def sequence(self) -> Iterator[Config]:
        """Yield the config of each point, without end unless the space is finite."""
        if self.cardinality is None:
            yield from self._points()
            return
        seen: set[str] = set()
        last_new = 0
        for index, config in enumerate(self._points()):
            if (key := config_key(config)) not in seen:
                seen.add(key)
                last_new = index
                yield config
            if len(seen) == self.cardinality or index - last_new >= _PATIENCE:
                break
        if len(seen) < self.cardinality <= LISTED:
            yield from self.space.grid()

    def _points(self) -> Iterator[Config]:
        dimensions = len(self.space.dimensions)
        rng = np.random.default_rng(self.seed)
        points = qmc.Sobol(max(1, dimensions), scramble=True, bits=60, rng=rng)
        while True:
            for u in points.random(_BLOCK):
                yield self.space.decode(u[:dimensions])
