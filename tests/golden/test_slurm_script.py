"""The whole text of batch scripts.

``UPDATE_GOLDEN=1 pytest tests/golden/test_slurm_script.py`` writes the texts anew; read the
difference.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo import spec
from raytune_hpo.errors import SpecError
from raytune_hpo.slurm import script
from raytune_hpo.slurm.script import Place
from raytune_hpo.targets import SlurmTarget

FOLDER = Path(__file__).parent / "slurm"
FILE = """
name: digits
run: python train.py --lr ${lr}
objective: {metric: loss}
parameters:
  lr: {min: 1e-4, max: 0.3, log: true}
"""
PLACE = Place(
    file=Path("/home/me/digits/experiment.yaml"),
    run_dir=Path("/home/me/digits/raytune-results/digits"),
    python=Path("/home/me/venv/bin/python"),
    folder=Path("/home/me/digits"),
    arguments=("run", "/home/me/digits/experiment.yaml", "--resume"),
)
HOSTILE = "a b'c\"d$(touch x)`touch y`;#&|"
SCRIPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "least": ("", {}),
    "allocation": (
        "resources: {cpu: 2, gpu: 1}\nparallel: 8\n",
        {"nodes": 2, "time": "4h", "partition": "gpu", "gpu_type": "a100", "memory": "64Gi"},
    ),
    "all-settings": (
        "",
        {
            "partition": "main",
            "account": "physics",
            "qos": "high",
            "constraint": "ib&avx512",
            "reservation": "monday",
            "nodes": 8,
            "min_nodes": 4,
            "cpus": 16,
            "gres": "gpu:h100:2,ssd",
            "memory": "1.5G",
            "time": "1-12:00:00",
            "modules": ["python/3.12", "cuda/12.4"],
            "setup": ["export OMP_NUM_THREADS=1", 'echo "begun at $(date)"'],
            "activate": "/opt/envs/tuning",
            "interface": "ib0",
            "temp": "/local",
            "margin": "5m",
            "requeue": False,
            "max_restarts": 7,
            "sbatch": ["--mail-type=END,FAIL", "--licenses=matlab:1"],
        },
    ),
    "elastic-head": (
        "parallel: 16\n",
        {
            "workers": 4,
            "time": "1h",
            "partition": "low",
            "head": {"partition": "long", "time": "2d", "memory": "2Gi"},
        },
    ),
}


def rendered(more: str, settings: dict[str, Any], place: Place = PLACE) -> str:
    experiment = spec.loads(FILE + more)
    return script.render(experiment, SlurmTarget.model_validate(settings), place)


def directives(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if "#SBATCH" in line]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def check(name: str, text: str) -> None:
    """Compare with what is recorded; bash has to be able to read it."""
    file = FOLDER / f"{name}.sh"
    if os.environ.get("UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_as_recorded(name: str) -> None:
    check(name, rendered(*SCRIPTS[name]))


def test_worker_scripts_are_as_recorded() -> None:
    more, settings = SCRIPTS["elastic-head"]
    experiment = spec.loads(FILE + more)
    target = SlurmTarget.model_validate(settings)
    cluster = PLACE.run_dir / "slurm" / "cluster.json"
    check("elastic-worker", script.render_worker(experiment, target, PLACE, cluster))


def test_sizes_follow_from_what_trials_need() -> None:
    assert directives(rendered("", {}))["cpus-per-task"] == "4"
    assert directives(rendered("parallel: 6\n", {"nodes": 4}))["cpus-per-task"] == "2"
    more = "parallel: 6\nresources: {cpu: 3, gpu: 0.5}\n"
    found = directives(rendered(more, {"nodes": 2}))
    assert (found["cpus-per-task"], found["gpus-per-node"]) == ("9", "2")
    assert directives(rendered(more, {"nodes": 2, "cpus": 6}))["gpus-per-node"] == "1"


def test_hostile_paths_and_arguments_stay_words(tmp_path: Path) -> None:
    place = Place(
        file=Path("/home") / HOSTILE,
        run_dir=tmp_path / HOSTILE,
        python=Path("/bin/echo"),
        folder=Path("/home") / HOSTILE,
        arguments=("run", HOSTILE, "--set", f"name={HOSTILE}"),
    )
    text = rendered("", {}, place)
    last = text.splitlines()[-1].replace('"$0"', "SCRIPT")
    words = shlex.split(last)
    assert words[words.index("--") + 1 :] == list(place.arguments)
    assert words[words.index("--run-dir") + 1] == str(place.run_dir)
    done = subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert HOSTILE in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["partition", "account", "qos", "constraint", "reservation", "gres", "gpu_type"]
)
@pytest.mark.parametrize("value", ["a b", "a\nb", "a\n#SBATCH --x", "$(x)", "`x`", "a;b", "-x", ""])
def test_names_that_a_shell_or_sbatch_would_read_are_refused(name: str, value: str) -> None:
    with pytest.raises(SpecError):
        spec.loads(FILE, overrides=[f"targets.slurm.{name}={value!r}"])


def test_lines_cannot_smuggle_in_more_lines() -> None:
    for name in ("activate", "temp"):
        with pytest.raises(SpecError):
            spec.loads(FILE + f'targets: {{slurm: {{{name}: "/x\\ny"}}}}\n')
    with pytest.raises(SpecError, match="control characters"):
        spec.loads(FILE + 'targets: {slurm: {setup: ["a\\rb"]}}\n')
