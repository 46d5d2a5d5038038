"""Which parameters matter: PED-ANOVA over the completed trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raytune_hpo.space import Choice, Ordinal, SearchSpace
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.trial import TrialState

if TYPE_CHECKING:
    import optuna

MIN_TRIALS = 10
"""Fewer completed trials say nothing on importance."""
_BEST_PART = 0.1
_FEWEST_BEST = 5
"""Of fewer trials than this PED-ANOVA makes noise; its authors' advice in Optuna."""


def importances(state: RunState) -> dict[str, float]:
    """Return each parameter's share in being among the best trials, largest first.

    The best are a tenth of the completed trials, at least five. The shares add up to 1. Empty
    with fewer than ``MIN_TRIALS`` completed trials, with fewer than two parameters, or when all
    values are equal.

    Source: Watanabe et al. 2023, arXiv:2304.10255, as implemented in Optuna.
    """
    space = state.experiment.search_space
    trials = [
        trial
        for trial in state.trials.values()
        if trial.state is TrialState.COMPLETED and trial.values is not None
    ]
    if len(trials) < MIN_TRIALS or len(space.dimensions) < 2:
        return {}
    if len({trial.values for trial in trials}) == 1:
        return {}
    return _ped_anova(space, trials, state)


def _ped_anova(
    space: SearchSpace, trials: Sequence[TrialRecord], state: RunState
) -> dict[str, float]:
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # or it announces the study
    try:
        directions = [optuna.study.StudyDirection.MINIMIZE] * len(state.objective.names)
        study = optuna.create_study(directions=directions)
        study.add_trials([_frozen(space, trial, state) for trial in trials])
        quantile = max(_BEST_PART, _FEWEST_BEST / len(trials))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {name: float(share) for name, share in shares.items()}


def _frozen(space: SearchSpace, trial: TrialRecord, state: RunState) -> optuna.trial.FrozenTrial:
    import optuna

    params: dict[str, Any] = {}
    distributions: dict[str, Any] = {}
    for name, place in zip(space.dimensions, space.encode(trial.config), strict=True):
        if place != place:  # NaN: inactive
            continue
        parameter = space.parameters[name]
        if isinstance(parameter, Choice) and not isinstance(parameter, Ordinal):
            count = len(parameter.values)
            distributions[name] = optuna.distributions.CategoricalDistribution(list(range(count)))
            params[name] = min(count - 1, int(place * count))
        else:
            distributions[name] = optuna.distributions.FloatDistribution(0.0, 1.0)
            params[name] = float(place)
    return optuna.trial.create_trial(
        params=params,
        distributions=distributions,
        values=list(state.objective.minimized(trial.values or ())),
    )
