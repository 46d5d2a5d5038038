"""What the parent run of an experiment says."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from raytune_hpo.redact import redact
from raytune_hpo.state import RunState
from raytune_hpo.tracking.names import clean, text
from raytune_hpo.tracking.store import STATE_TAG
from raytune_hpo.tracking.writes import Writes
from raytune_hpo.view import text as screens

KILLED = frozenset({"interrupted", "stopped"})
"""Reasons of a finish after which the run can go on."""
FAILED = frozenset({"infrastructure", "max_failed", "same_error", "searcher", "spec"})
"""Reasons of a finish that are failures."""
REQUIREMENTS = "requirements.txt"
SPEC = "resolved.json"

_BEST_SHOWN = 10


def who(header: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that every run of the experiment has: who, from what, at which commit."""
    environment = header.get("environment") or {}
    git = environment.get("git") or {}
    command = header["spec"].get("run") or ""
    words = command if isinstance(command, str) else " ".join(map(str, command))
    tags = {
        "mlflow.user": environment.get("user") or "unknown",
        "mlflow.source.name": redact(words) or header["name"],
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.repoURL": redact(git.get("remote") or ""),
        "mlflow.source.git.dirty": "true" if git.get("dirty") else None,
    }
    return {name: text(value, 250) for name, value in tags.items() if value}


def experiment_tags(state: RunState, metric: str) -> dict[str, str]:
    """Return tags of the MLflow experiment: what it is for, and its first metric."""
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": metric,
        "mlflow.experiment.primaryMetric.greaterIsBetter": str(state.objective.modes[0] == "max"),
    }


def describe(writes: Writes, state: RunState) -> None:
    """Add what is known when the run begins: params, tags and the experiment file."""
    header, spec = state.header, state.spec
    environment = header.get("environment") or {}
    writes.params |= _params(state)
    writes.tags |= {clean(k): text(v) for k, v in _tags_of(spec).items()}
    writes.tags["raytune.run_id"] = state.id
    if environment.get("raytune_hpo"):
        writes.tags["raytune.version"] = text(environment["raytune_hpo"])
    if spec.get("description"):
        writes.tags["mlflow.note.content"] = text(spec["description"])
    if header.get("source"):
        writes.texts["experiment.yaml"] = header["source"]
    writes.texts[SPEC] = json.dumps(spec, indent=2) + "\n"


def _tags_of(spec: Mapping[str, Any]) -> dict[str, str]:
    section = spec.get("mlflow") or {}
    return dict(section.get("tags") or {})


def _params(state: RunState) -> dict[str, str]:
    objective, spec = state.objective, state.spec
    params = {
        "search": state.algorithm,
        "scheduler": state.scheduler,
        "objective": ", ".join(objective.names),
        "mode": ", ".join(objective.modes),
        "seed": state.seed,
        "trials": spec.get("trials"),
        "retries": spec.get("retries") or 0,
        "parameters": ", ".join(state.experiment.search_space.parameters),
        "target": ", ".join(str(g.target) for g in objective.goals if g.target is not None),
        "constraints": ", ".join(rule.text for rule in objective.constraints),
    }
    return {name: text(value) for name, value in params.items() if value not in ("", None)}


def requirements(header: Mapping[str, Any], run_dir: Path) -> str | None:
    """Return the packages of the machine of the run, as pip would freeze them.

    They are written to the run directory when this is called on that machine, and read from there
    later; None when the machine is another one and there is no such file.
    """
    path = run_dir / REQUIREMENTS
    if path.is_file():
        return path.read_text()
    if (header.get("environment") or {}).get("host") != socket.gethostname():
        return None
    packages = {f"{d.name}=={d.version}" for d in metadata.distributions() if d.name}
    content = "\n".join(sorted(packages, key=str.lower)) + "\n"
    path.write_text(content)
    return content


def reopen(writes: Writes, state: RunState) -> None:
    """Add what a new session changes."""
    session = state.sessions[-1]
    writes.set_status("RUNNING")
    writes.tags |= {
        STATE_TAG: "running",
        "raytune.sessions": str(session.number),
        "raytune.host": text(session.host),
        "raytune.trials": "no limit" if session.trials is None else str(session.trials),
        "raytune.parallel": str(session.parallel),
    }


def conclude(writes: Writes, state: RunState, end_ms: int) -> None:
    """Add what is known when the run ends: status, summary and table."""
    finish = state.finish
    if finish is None:
        return
    word = "finished"
    if finish.reason in FAILED:
        word = "failed"
    elif finish.reason in KILLED:
        word = "interrupted"
    status = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[word]
    writes.set_status(status, end_ms)
    writes.tags[STATE_TAG] = word
    writes.tags["raytune.finish"] = finish.reason
    writes.tags["mlflow.note.content"] = text(summary(state))
    writes.texts["trials.csv"] = table(state)


def summary(state: RunState) -> str:
    """Return what the run found, as Markdown."""
    lines = [f"**{state.name}**: {screens.counts_text(state)}"]
    if state.spec.get("description"):
        lines.insert(0, str(state.spec["description"]) + "\n")
    if state.finish is not None and state.finish.message:
        lines.append(f"\n{state.finish.message}")
    for number in state.best()[:_BEST_SHOWN]:
        trial = state.trials[number]
        lines.append(f"\n### Trial {number}: {screens.values_text(state, trial.values or ())}\n")
        lines.append("| parameter | value |\n|---|---|")
        lines += [f"| {_cell(name)} | {_cell(v)} |" for name, v in trial.config.items()]
    if not state.best():
        lines.append("\nNo trial gave a usable result.")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    shown = value if isinstance(value, str) else screens.value_text(value)
    return " ".join(shown.split()).replace("|", "\\|")


def table(state: RunState) -> str:
    """Return all trials as CSV."""
    goals = [f"objective.{name}" for name in state.objective.names]
    config = [f"config.{name}" for name in state.experiment.search_space.parameters]
    metrics = sorted({f"metrics.{m}" for t in state.trials.values() for m in t.metrics})
    head = ["number", "state", "origin", "feasible", *goals, *config, *metrics]
    target = io.StringIO()
    writer = csv.DictWriter(target, [*head, "duration_s", "attempts"], lineterminator="\n")
    writer.writeheader()
    for number, trial in sorted(state.trials.items()):
        row = {
            "number": number,
            "state": trial.state.value,
            "origin": trial.origin,
            "feasible": trial.feasible,
            **dict(zip(goals, trial.outcome().values or (), strict=False)),
            **{f"config.{name}": value for name, value in trial.config.items()},
            **{f"metrics.{name}": value for name, value in trial.metrics.items()},
            "duration_s": round(trial.duration_s, 3),
            "attempts": len(trial.attempts),
        }
        writer.writerow(row)
    return target.getvalue()
