"""The result of a run, for Python and notebooks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_hpo import journal, runs
from raytune_hpo.errors import RunError
from raytune_hpo.state import RunState, TrialRecord
from raytune_hpo.storage import place
from raytune_hpo.view import text

if TYPE_CHECKING:
    import pandas as pd

_FIXED = ("number", "state", "origin", "feasible", "duration_s", "attempts", "parent")


class RunResult:
    """What a run found. ``run`` and ``resume`` return one; ``load`` reads one from disk.

    Example::

        result = RunResult.load("raytune-results/digits")
        print(result.best.config, result.best.metrics)
        result.trials.sort_values("val_loss")

    Args:
        state: All that is known of the run.
        path: Its directory, or that of a copy of it.

    Attributes:
        state: All that is known of the run.
        path: Its directory.
    """

    def __init__(self, state: RunState, path: Path) -> None:
        self.state = state
        self.path = path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunResult:
        """Read the result of a run, finished or not, from its directory or its URL in a store.

        Raises:
            JournalError: There is no journal, or it is damaged.
        """
        run_dir = runs.find(str(path)) if place.is_url(path) else Path(path)
        records = journal.read(run_dir)
        if not records:
            raise RunError(f"{place.shown(run_dir)}: the run was given up before it began")
        return cls(RunState.replay(records, keep_reports=True), run_dir)

    @property
    def best(self) -> TrialRecord:
        """The best trial: its ``number``, ``config``, ``values`` and ``metrics``.

        Raises:
            RunError: No trial succeeded, none meets the constraints, or there are several
                objectives, which have a Pareto front instead.
        """
        if self.state.objective.multi:
            raise RunError("there are several objectives, so no single best trial: use .pareto")
        best = self.state.best()
        if not best:
            from raytune_hpo.view.summary import result_lines

            raise RunError("\n".join([f"{self.state.name}:", *result_lines(self.state)]))
        return self.state.trials[best[0]]

    @property
    def pareto(self) -> list[TrialRecord]:
        """The trials that no other beats in all objectives; with one objective, the best."""
        return [self.state.trials[number] for number in self.state.best()]

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial.

        Columns: number, state, origin, feasible, one for each objective, ``config.*`` for each
        parameter, ``metrics.*`` for the latest value of each metric, duration_s, attempts, and
        parent, the trial that a fork went on from. What a trial does not have is missing (NaN or
        None).
        """
        import pandas as pd

        rows = [self._row(trial) for _, trial in sorted(self.state.trials.items())]
        return pd.DataFrame(rows, columns=self._columns(rows))

    def _columns(self, rows: list[dict[str, Any]]) -> list[str]:
        config = [f"config.{name}" for name in self.state.experiment.search_space.parameters]
        metrics = dict.fromkeys(name for row in rows for name in row if name.startswith("metrics."))
        return [
            *_FIXED[:4],
            *map(_column, self.state.objective.names),
            *config,
            *metrics,
            *_FIXED[4:],
        ]

    def _row(self, trial: TrialRecord) -> dict[str, Any]:
        names = self.state.objective.names
        values = trial.outcome().values or (None,) * len(names)
        return {
            "number": trial.number,
            "state": trial.state.value,
            "origin": trial.origin,
            "feasible": trial.feasible,
            **dict(zip(map(_column, names), values, strict=True)),
            **{f"config.{name}": value for name, value in trial.config.items()},
            **{f"metrics.{name}": value for name, value in trial.metrics.items()},
            "duration_s": trial.duration_s,
            "attempts": len(trial.attempts),
            "parent": trial.parent,
        }

    def __repr__(self) -> str:
        counts, best = text.counts_text(self.state), text.best_text(self.state)
        return f"RunResult({self.state.name}: {counts}; {best}; {place.shown(self.path)})"

    def _repr_html_(self) -> str:
        from raytune_hpo.view.notebook import result_html

        return result_html(self.state)


def _column(name: str) -> str:
    """Return the column of an objective; a name that is taken gets a prefix."""
    taken = name in _FIXED or name.startswith(("config.", "metrics."))
    return f"objective.{name}" if taken else name
