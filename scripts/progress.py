"""How far a run has come, by the records of its journal: for the demonstrations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from raytune_hpo import journal
from raytune_hpo.trial import TrialState


def records(run_dir: Path) -> list[journal.Record]:
    """Return the journal of a run as it is now, with nothing in it before the run begins."""
    return journal.read(run_dir) if journal.exists(run_dir) else []


def begun(run_dir: Path) -> int:
    """Return how many trials of a run have begun; many of them pause before they finish."""
    return sum(record["type"] == "trial" for record in records(run_dir))


def finished(run_dir: Path) -> Counter[int]:
    """Return how often each trial of a run has finished."""
    ends = (record for record in records(run_dir) if record["type"] == "end")
    return Counter(end["trial"] for end in ends if TrialState(end["state"]).finished)
