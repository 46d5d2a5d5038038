"""What a kill -9 of the driver costs: our tuner on Ray, the same without Ray, and plain Ray Tune.

Each round runs an experiment to its end; its driver is killed again and again after a random time
and started anew, as somebody would who wants to go on. What was lost or run twice is counted from
what the trials note themselves: when they begin, when a report has been taken, and when they end.

    python benchmarks/driver_kills.py --rounds 3
    python benchmarks/driver_kills.py --systems no-ray --rounds 40 --kills 5
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRIALS, STEPS, PARALLEL, STEP_S = 40, 10, 4, 0.15
NOTES = "notes"
SYSTEMS = ("raytune-hpo", "ray-tune", "no-ray")


@dataclass
class Count:
    """What was found in one round."""

    kills: int = 0
    finished_again: int = 0
    finished_lost: int = 0
    acknowledged_lost: int = 0
    steps_repeated: int = 0
    distinct: int = 0
    wall_s: float = 0.0
    seen: list[dict[str, Any]] = field(default_factory=list, repr=False)


# In the trials


def note(file: str, what: str, key: float, step: int) -> None:
    line = json.dumps({"what": what, "key": repr(key), "step": step})
    with Path(file).open("a") as notes:
        notes.write(line + "\n")


def train_ours(config: dict[str, Any]) -> None:
    import raytune_hpo as rh

    file = os.environ["NOTES_FILE"]
    before = rh.get_checkpoint()
    first = int((before / "step").read_text()) if before else 0
    note(file, "began", config["x"], first)
    own = Path(f"own-{rh.trial_number()}")
    own.mkdir(exist_ok=True)
    for step in range(first + 1, STEPS + 1):
        time.sleep(float(os.environ.get("STEP_S", STEP_S)))
        (own / "step").write_text(str(step))
        rh.report(loss=config["x"] / step, checkpoint=own)
        note(file, "acknowledged", config["x"], step)
    note(file, "ended", config["x"], STEPS)


def train_tune(config: dict[str, Any]) -> None:
    from ray import tune

    file = config["notes"]
    before = tune.get_checkpoint()
    first = 0
    if before is not None:
        with before.as_directory() as folder:
            first = int((Path(folder) / "step").read_text())
    note(file, "began", config["x"], first)
    for step in range(first + 1, STEPS + 1):
        time.sleep(STEP_S)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "step").write_text(str(step))
            tune.report({"loss": config["x"] / step}, checkpoint=tune.Checkpoint(folder))
        note(file, "acknowledged", config["x"], step)
    note(file, "ended", config["x"], STEPS)


# Drivers, each in a process of its own


def drive_ours(folder: Path) -> None:
    import raytune_hpo as rh

    os.environ["NOTES_FILE"] = str(folder / NOTES)
    rh.run(
        train_ours,
        {"x": rh.Float(0.0, 1.0)},
        "loss",
        name="kills",
        resume=True,
        quiet=True,
        mlflow=False,
        trials=TRIALS,
        parallel=PARALLEL,
        search={"algorithm": "random", "seed": 1},
        resources={"cpu": 0.5},
        env={"NOTES_FILE": str(folder / NOTES)},
    )


def drive_without_ray(folder: Path) -> None:
    import raytune_hpo as rh
    from raytune_hpo import journal
    from raytune_hpo.experiment import Experiment
    from raytune_hpo.session import Surroundings, resume_run, run_dir_of, run_experiment
    from raytune_hpo.testing.threads import Threads

    # Function trials share their process with the driver here: one at a time, and fast.
    os.environ.update({"NOTES_FILE": str(folder / NOTES), "STEP_S": "0.02"})
    experiment = Experiment.from_python(
        train_ours,
        {"x": rh.Float(0.0, 1.0)},
        "loss",
        name="kills",
        mlflow=False,
        trials=TRIALS,
        parallel=1,
        search={"algorithm": "random", "seed": 1},
    )
    around = Surroundings(executor=Threads(slots=1))
    if journal.exists(run_dir_of(experiment, folder)):
        resume_run(run_dir_of(experiment, folder), function=train_ours, surroundings=around)
    else:
        run_experiment(experiment, folder=folder, surroundings=around)


def drive_tune(folder: Path) -> None:
    import ray
    from ray import tune

    storage = folder / "tune"
    trainable = tune.with_resources(train_tune, {"cpu": 0.5})
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    if tune.Tuner.can_restore(str(storage / "kills")):
        tuner = tune.Tuner.restore(
            str(storage / "kills"), trainable, resume_unfinished=True, resume_errored=True
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"x": tune.uniform(0.0, 1.0), "notes": str(folder / NOTES)},
            tune_config=tune.TuneConfig(
                num_samples=TRIALS, max_concurrent_trials=PARALLEL, metric="loss", mode="min"
            ),
            run_config=tune.RunConfig(name="kills", storage_path=str(storage), verbose=0),
        )
    tuner.fit()


# The observer


def notes_of(folder: Path) -> list[dict[str, Any]]:
    path = folder / NOTES
    text = path.read_text() if path.exists() else ""
    # A line may be half written at this moment.
    return [json.loads(line) for line in text.split("\n")[:-1]]


def one_round(system: str, kills: int, chance: random.Random) -> Count:
    count = Count()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        while not _session(system, folder, count, chance if count.kills < kills else None):
            count.kills += 1
        count.distinct = len({entry["key"] for entry in notes_of(folder)})
        count.finished_lost = _lost(system, folder)
    count.wall_s = time.monotonic() - began_s
    return count


def _session(system: str, folder: Path, count: Count, chance: random.Random | None) -> bool:
    """Start a driver once, maybe kill it, and count what it repeated; return whether it ended."""
    before = notes_of(folder)
    driver = subprocess.Popen(
        [sys.executable, __file__, "--drive", system, str(folder)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    killed = False
    if chance is not None:
        _wait(lambda: len(notes_of(folder)) > len(before) or driver.poll() is not None)
        time.sleep(chance.uniform(0.1, 5.0 if system != "no-ray" else 1.5))
        killed = driver.poll() is None
        if killed:
            driver.send_signal(signal.SIGKILL)
    driver.wait()
    if not killed and driver.returncode != 0:
        raise SystemExit(f"the driver of {system} ended with {driver.returncode}")
    if killed and system != "no-ray":
        _settle(folder)
    _count(count, before, notes_of(folder)[len(before) :])
    return not killed


def _count(count: Count, before: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    ended = {entry["key"] for entry in before if entry["what"] == "ended"}
    reached: Counter[str] = Counter()
    for entry in before:
        if entry["what"] != "began":
            reached[entry["key"]] = max(reached[entry["key"]], entry["step"])
    for entry in new:
        if entry["what"] == "began" and entry["key"] in reached:
            back = reached[entry["key"]] - entry["step"]
            # One that begins after its last step has nothing to run again.
            count.finished_again += entry["key"] in ended and entry["step"] < STEPS
            count.steps_repeated += max(0, back)
            # A report that was taken comes with its checkpoint: one that is not there is lost.
            taken = [
                e["step"]
                for e in before
                if e["key"] == entry["key"] and e["what"] == "acknowledged"
            ]
            count.acknowledged_lost += max(0, max(taken, default=0) - entry["step"])


def _lost(system: str, folder: Path) -> int:
    """Return how many trials that ended are not in the final result."""
    ended = {entry["key"] for entry in notes_of(folder) if entry["what"] == "ended"}
    return len(ended - set(_results(system, folder)))


def _results(system: str, folder: Path) -> Iterator[str]:
    if system == "ray-tune":
        from ray import tune

        for result in tune.ExperimentAnalysis(str(folder / "tune" / "kills")).results.values():
            if result and "config" in result and result.get("training_iteration"):
                yield repr(result["config"]["x"])
        return
    import raytune_hpo as rh

    for trial in rh.load(folder / "raytune-results" / "kills").state.trials.values():
        if trial.values is not None:
            yield repr(trial.config["x"])


def _settle(folder: Path) -> None:
    """Wait until what the dead driver left has ended too."""
    quiet_s, size = time.monotonic(), -1
    while time.monotonic() - quiet_s < 2.0:
        now = (folder / NOTES).stat().st_size if (folder / NOTES).exists() else 0
        if now != size:
            quiet_s, size = time.monotonic(), now
        time.sleep(0.1)


def _wait(ready: Any, timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit("nothing happens")
        time.sleep(0.05)


def _table(found: dict[str, list[Count]]) -> None:
    names = ("finished_again", "finished_lost", "acknowledged_lost", "steps_repeated")
    print(f"{TRIALS} trials of {STEPS} steps, {PARALLEL} at once; sums over all kills")
    print(f"{'system':<14}{'rounds':>7}{'kills':>7}" + "".join(f"{n:>19}" for n in names), end="")
    print(f"{'distinct trials':>24}{'wall s (median)':>18}")
    for system, rounds in found.items():
        sums = [sum(getattr(c, n) for c in rounds) for n in names]
        kills = sum(c.kills for c in rounds)
        distinct = sorted(c.distinct for c in rounds)
        wall = statistics.median(c.wall_s for c in rounds)
        print(f"{system:<14}{len(rounds):>7}{kills:>7}" + "".join(f"{s:>19}" for s in sums), end="")
        print(f"{f'{distinct[0]}..{distinct[-1]} of {TRIALS}':>24}{wall:>18.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--systems", default="raytune-hpo,ray-tune")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=3, help="in each round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--drive", nargs=2, metavar=("SYSTEM", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        system, folder = options.drive
        drivers = {
            "raytune-hpo": drive_ours,
            "ray-tune": drive_tune,
            "no-ray": drive_without_ray,
        }
        drivers[system](Path(folder))
        return
    systems = options.systems.split(",")
    if unknown := set(systems) - set(SYSTEMS):
        parser.error(f"unknown systems {sorted(unknown)}; there are {', '.join(SYSTEMS)}")
    found: dict[str, list[Count]] = {system: [] for system in systems}
    for number in range(options.rounds):
        for system in systems:
            chance = random.Random(f"{options.seed} {number}")
            found[system].append(one_round(system, options.kills, chance))
            print(system, found[system][-1], file=sys.stderr)
    _table(found)


if __name__ == "__main__":
    main()
