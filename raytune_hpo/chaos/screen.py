"""What ``raytune-hpo chaos`` shows at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from raytune_hpo import escape
from raytune_hpo.chaos.campaign import Outcome
from raytune_hpo.chaos.verdict import Loss, Verdict

_MOST_CASES = 3


def show(console: Console, verdict: Verdict, outcome: Outcome) -> None:
    """Print the table of losses, the figures, and one sentence."""
    console.print(_table(verdict))
    for line in figures_text(verdict, outcome):
        console.print(Text(escape.visible(line)))
    console.print(
        Text(sentence(verdict), style="bold green" if verdict.nothing_lost else "bold red")
    )


def sentence(verdict: Verdict) -> str:
    """Return the outcome in one sentence."""
    if verdict.nothing_lost:
        return (
            f"Nothing was lost: {verdict.trials} trials, {verdict.reports} reports, "
            f"{verdict.interruptions} interruptions, {verdict.sessions} starts of the driver."
        )
    found = ", ".join(f"{loss.what}: {len(loss.found)}" for loss in verdict.losses if loss.found)
    return f"Something was lost ({found}). Please report it, with the run directory."


def figures_text(verdict: Verdict, outcome: Outcome) -> list[str]:
    """Return what happened, one line each."""
    strikes = _counted({kind: hits for kind, hits in _hits(outcome).items()})
    states = _counted(verdict.states)
    attempts = ", ".join(f"{many} with {n}" for n, many in verdict.attempts.items())
    again = verdict.reports_again / verdict.interruptions if verdict.interruptions else 0.0
    lines = [
        f"struck       {strikes or 'nothing'}",
        f"trials       {states} (of {verdict.budget or 'no'} asked for; ended by {verdict.ended})",
        f"attempts     {attempts}",
        f"run again    {verdict.reports_again} reports, {again:.2f} an interruption",
        f"driver       {verdict.sessions} starts, {outcome.surprises} ends of its own",
        f"took         {outcome.wall_s:.0f} s",
    ]
    return lines + [f"failed       {count}: {cause}" for cause, count in verdict.failed.items()]


def figures(verdict: Verdict, outcome: Outcome, **more: Any) -> dict[str, Any]:
    """Return everything as JSON."""
    strikes = [asdict(struck) for struck in outcome.struck]
    values = {**asdict(verdict), "nothing_lost": verdict.nothing_lost, "strikes": strikes}
    return {
        **more,
        **values,
        "losses": {loss.what: list(loss.found) for loss in verdict.losses},
        "wall_s": outcome.wall_s,
        "driver_exit_codes": list(outcome.codes),
        "driver_surprises": outcome.surprises,
    }


def _table(verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("looked for")
    table.add_column("found", justify="right")
    table.add_column("such as")
    for loss in verdict.losses:
        style = "red" if loss.found else "green"
        table.add_row(loss.what, Text(str(len(loss.found)), style=style), _cases(loss))
    return table


def _cases(loss: Loss) -> Text:
    shown = "; ".join(loss.found[:_MOST_CASES])
    return Text(escape.cut(escape.visible(shown), 160))


def _hits(outcome: Outcome) -> dict[str, int]:
    hits: dict[str, int] = {}
    for struck in outcome.struck:
        hits[struck.kind] = hits.get(struck.kind, 0) + max(1, len(struck.trials))
    return hits


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
