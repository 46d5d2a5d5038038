"""Bayesian optimisation that learns from trials however far they got."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from raytune_hpo.objective import Objective
from raytune_hpo.searchers import gaussian
from raytune_hpo.searchers.bo import Acquisition, BoSearcher, Matrix, _kept
from raytune_hpo.searchers.evidence import Evidence, collect
from raytune_hpo.searchers.features import Features
from raytune_hpo.searchers.gaussian import Hyper, Priors
from raytune_hpo.space import SearchSpace
from raytune_hpo.trial import Outcome, TrialState

_FITTED = 100
"""Trials that hyperparameters are learnt from at the most."""


class MfboSearcher(BoSearcher):
    """Proposes the config from which the most improvement is expected when it is run to the end.

    For schedulers that stop or pause trials early. The model is that of ``bo`` with one dimension
    more: how far a trial got. Each trial counts by its latest value at the logarithm of its step,
    whether it runs, stands paused or has ended; one that completed counts at the end. How much the
    values at low steps tell of those at the end is learnt, as a length scale. Trials without a
    value, constraints, failures and several goals are handled as ``bo`` does. In a finite space no
    config is proposed twice.

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

    Source: Swersky et al. 2013, Multi-task Bayesian optimization, section 3.2, and Klein et al.
    2017, arXiv:1605.07079, section 3 (a kernel over configs and fidelity); else as ``bo``.

    Example:
        >>> from raytune_hpo.objective import Objective
        >>> from raytune_hpo.space import Float, SearchSpace
        >>> searcher = MfboSearcher(SearchSpace({"x": Float(0, 1)}), Objective.of("loss"), seed=1)
        >>> for trial in range(12):
        ...     loss = (searcher.suggest(trial)["x"] - 0.7) ** 2
        ...     searcher.report(trial, 1, (loss + 1,))
        ...     searcher.observe(trial, Outcome(TrialState.PRUNED, (loss + 1,), step=1))
        >>> min(abs(config["x"] - 0.7) for config, _ in searcher.trials.values()) < 0.05
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
        super().__init__(
            space,
            objective,
            seed,
            startup_trials=startup_trials,
            acquisition=acquisition,
            failures=failures,
        )
        self._features = _AtTheEnd(space)
        self._latest: dict[int, Outcome] = {}

    def report(
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...] = ()
    ) -> None:
        """Keep the value at the highest step."""
        before = self._latest.get(trial)
        if before is None or step > before.step:
            self._latest[trial] = Outcome(TrialState.RUNNING, values, violations, step)

    def observe(self, trial: int, outcome: Outcome) -> None:
        """Keep the outcome of a trial."""
        super().observe(trial, outcome)
        kept = self.trials[trial][1]
        if kept is not None:
            self._latest[trial] = kept

    def state(self) -> dict[str, Any]:
        """Return the table and the latest reports as JSON values."""
        latest = [
            [trial, outcome.step, outcome.values and list(outcome.values), list(outcome.violations)]
            for trial, outcome in self._latest.items()
        ]
        return {**super().state(), "latest": latest}

    def restore(self, state: dict[str, Any]) -> None:
        """Rebuild the table, and take over the reports."""
        super().restore(state)
        self._latest = {}
        for trial, step, values, violations in state["latest"]:
            outcome = self.trials[trial][1]
            if outcome is None:
                self.report(trial, step, tuple(values), tuple(violations))
            else:
                self._latest[trial] = outcome

    def _evidence(self) -> Evidence:
        table = {t: (config, self._latest.get(t)) for t, (config, _) in self.trials.items()}
        return collect(table, list(self._latest), self._cubes, self.objective)

    def _observed(self, evidence: Evidence) -> Matrix:
        """Return the coordinates of the trials with values, at the steps where they stand."""
        x = self._features.embed(evidence.valued)
        most = max((outcome.step for outcome in self._latest.values()), default=1)
        if most > 1:
            x[:, -1] = np.log(np.clip(evidence.steps, 1, most)) / math.log(most)
        return x

    def _hyper(self, name: str | None, x: Matrix, y: Matrix, priors: Priors) -> Hyper:
        """Return hyperparameters, learnt each time: the values of trials that go on change."""
        kept = _kept(y, _FITTED)
        return gaussian.fit(x[kept], y[kept], self._features.group, priors)


class _AtTheEnd(Features):
    """Coordinates of configs that are run to the end: one more than they have, which is 1."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self.group = np.append(self.group, len(self.cells))

    def embed(self, cubes: Matrix) -> Matrix:
        """Return coordinates, shape (n, columns)."""
        found = super().embed(cubes)
        found[:, -1] = 1.0
        return found
