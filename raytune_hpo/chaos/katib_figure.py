"""The figure of Katib's paper, drawn from runs of one's own beside the paper's values."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from raytune_hpo.chaos.katib import (
    FAIL_RATES,
    KILL_RATE,
    MAX_FAILED,
    OURS,
    PARALLEL,
    RETRIES,
    TRIALS,
    TUNE,
    TUNE_RETRIES,
    Part,
)
from raytune_hpo.chaos.plan import FaultKind

PAPER_FAILED = {0.0: 1, 0.05: 4, 0.5: 28, 1.0: 39}
"""Failed trials at 150 trials under Katib, by share; read from Fig. 7a, its legend corrected."""
PAPER_KILLED = {"Katib": 0, "Optuna, NNI": 11}
"""Failed trials at 150 trials when 5 % were killed; Fig. 7c."""
PAPER_BEST = {0.0: 448, 0.05: 423, 0.5: 418.5, 1.0: 437}
"""Best cross-entropy at 150 trials under Katib, from 508 to 513 at the start; Fig. 7b."""
_COLOURS = {0.0: "tab:blue", 0.05: "tab:green", 0.5: "tab:orange", 1.0: "tab:red"}
_LINES: dict[str, dict[str, Any]] = {
    OURS: {"linestyle": "-", "linewidth": 3.5, "alpha": 0.5},
    TUNE: {"linestyle": "--", "linewidth": 1.4},
    TUNE_RETRIES: {"linestyle": ":", "linewidth": 2.0},
}
"""Thin over thick, since they often coincide."""
_SYSTEM_COLOURS = {OURS: "tab:blue", TUNE: "tab:red", TUNE_RETRIES: "tab:orange"}
_DPI = 130


def failed(part: Part) -> list[int]:
    """Return how many of the first 0, 1, 2, ... finished trials of a curve failed."""
    counts = [0]
    for end in part["curve"]:
        counts.append(counts[-1] + end["failed"])
    return counts


def best(part: Part) -> list[tuple[int, float]]:
    """Return the smallest value among the first trials of a curve, once there is one."""
    values: list[tuple[int, float]] = []
    for number, end in enumerate(part["curve"], start=1):
        known = [end["value"]] if end["value"] is not None else []
        known += [values[-1][1]] if values else []
        if known:
            values.append((number, min(known)))
    return values


def table(parts: Sequence[Part]) -> list[str]:
    """Return the figures at the end of each curve, a line each."""
    head = (
        f"{'system':<26}{'fault':<14}{'trials':>7}{'failed':>7}{'Katib':>7}"
        f"{'struck':>7}{'best':>8}{'wall s':>8}"
    )
    lines = [head]
    for part in parts:
        fault = f"{part['kind']} {100 * part['share']:g} %"
        values = best(part)
        shown = f"{values[-1][1]:.4f}" if values else "none"
        hit = sum(count for _, count in part["strikes"])
        lines.append(
            f"{part['system']:<26}{fault:<14}{len(part['curve']):>7}{failed(part)[-1]:>7}"
            f"{_paper(part):>7}{hit:>7}{shown:>8}{part['wall_s']:>8.0f}"
        )
    return lines


def draw(parts: Sequence[Part], scale: str, folder: Path) -> list[Path]:
    """Draw the three panels, and return the files written.

    Args:
        parts: The curves.
        scale: How time is scaled, in a sentence.
        folder: Takes ``katib-fig7.svg`` and ``katib-fig7.png``.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(15, 5.2))
    fails = [part for part in parts if part["kind"] == FaultKind.FAIL]
    kills = [part for part in parts if part["kind"] == FaultKind.KILL]
    _draw_failed(panels[0], fails)
    _draw_best(panels[1], fails)
    _draw_killed(panels[2], kills)
    for panel in panels:
        panel.set_xlabel("finished trials")
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
    figure.suptitle("Trials that fail and workers that are killed: Fig. 7 of Katib's paper again")
    figure.text(0.5, 0.01, _caption(parts, scale), ha="center", va="bottom", fontsize=8)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    paths = [folder / f"katib-fig7.{kind}" for kind in ("svg", "png")]
    for path in paths:
        figure.savefig(path, dpi=_DPI, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return paths


def _draw_failed(panel: Any, parts: Sequence[Part]) -> None:
    for part in parts:
        panel.step(
            range(len(part["curve"]) + 1),
            failed(part),
            **_LINES[part["system"]],
            where="post",
            color=_COLOURS[part["share"]],
            label=f"{part['system']}, {100 * part['share']:g} %",
        )
    for share in FAIL_RATES:
        panel.plot(
            TRIALS,
            PAPER_FAILED[share],
            "D",
            color=_COLOURS[share],
            markerfacecolor="none",
            label="Katib (paper)" if share == FAIL_RATES[0] else None,
        )
    panel.set_title("(a) a share of the running trials fails", fontsize=11)
    panel.set_ylabel("failed trials, cumulative")
    panel.legend(fontsize=7, loc="upper left")


def _draw_best(panel: Any, parts: Sequence[Part]) -> None:
    for part in parts:
        points = best(part)
        panel.step(
            [number for number, _ in points],
            [value for _, value in points],
            **_LINES[part["system"]],
            where="post",
            color=_COLOURS[part["share"]],
            label=f"{part['system']}, {100 * part['share']:g} %",
        )
    panel.set_yscale("log")
    panel.set_title("(b) best objective meanwhile", fontsize=11)
    panel.set_ylabel("best validation cross-entropy, nats")
    panel.legend(fontsize=7, loc="upper right")
    ends = ", ".join(f"{100 * share:g} %: {value:g}" for share, value in PAPER_BEST.items())
    note = f"Katib (paper; another model and unit):\nfrom 508 to 513; at {TRIALS} trials\n{ends}"
    box = {"facecolor": "white", "edgecolor": "lightgrey", "alpha": 0.9}
    where = {"transform": panel.transAxes, "ha": "right", "va": "top"}
    panel.text(0.98, 0.55, note, fontsize=7, bbox=box, **where)


def _draw_killed(panel: Any, parts: Sequence[Part]) -> None:
    for part in parts:
        panel.step(
            range(len(part["curve"]) + 1),
            failed(part),
            **_LINES[part["system"]],
            where="post",
            color=_SYSTEM_COLOURS[part["system"]],
            label=f"{part['system']} ({sum(n for _, n in part['strikes'])} killed)",
        )
    for (name, count), marker in zip(PAPER_KILLED.items(), "Ds", strict=True):
        panel.plot(
            TRIALS, count, marker, color="k", markerfacecolor="none", label=f"{name} (paper)"
        )
    panel.set_title(f"(c) {100 * KILL_RATE:g} % of the running trials are killed", fontsize=11)
    panel.set_ylabel("failed trials, cumulative")
    panel.legend(fontsize=7, loc="upper left")


def _caption(parts: Sequence[Part], scale: str) -> str:
    seeds = ", ".join(sorted({str(part["seed"]) for part in parts}))
    count = parts[0]["trials"]
    return (
        f"One run a curve (n = 1), seed {seeds} for search and strikes; {count} trials, {PARALLEL} "
        f"at once, error budget {MAX_FAILED}, random search, {RETRIES} retries (raytune-hpo). "
        f"Ray {version('ray')}. Model: one hidden layer with dropout on scikit-learn's digits.\n"
        f"{scale}. Diamonds and squares: read from the paper's figure at {TRIALS} trials."
    )


def _paper(part: Part) -> str:
    """Return the failed trials of the paper's own system."""
    if part["system"] != OURS:
        return ""
    if part["kind"] == FaultKind.FAIL:
        return str(PAPER_FAILED[part["share"]])
    return str(PAPER_KILLED["Katib"])
