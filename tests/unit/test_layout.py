"""The package list, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from raytune_hpo import plugins

ROOT = Path(__file__).parents[2]
FOLDERS = ("searchers", "schedulers", "cluster", "slurm")
BELOW = ("cluster/kuberay",)
"""Folders with modules within those."""


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in (ROOT / "raytune_hpo").glob("*.py"):
        found[f"raytune_hpo.{path.stem}"] = path
    for folder in (ROOT / "raytune_hpo").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            for path in folder.glob("*.py"):
                found[f"raytune_hpo.{folder.name}.{path.stem}"] = path
    for below in BELOW:
        for path in (ROOT / below).glob("*.py"):
            found[f"raytune_hpo.{below.replace('/', '.')}.{path.stem}"] = path
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


def imports(path: Path) -> Iterator[str]:
    """Return the full names that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = modules()
ALGORITHMS = {
    target.partition(":")[0].rpartition(".")[2]
    for table in plugins._BUILT_IN.values()
    for target in table.values()
}


def users_of(name: str) -> set[str]:
    """Return the modules that import something, by full name or below it."""
    return {
        module
        for module, path in MODULES.items()
        if any(used == name or used.startswith(f"{name}.") for used in imports(path))
    }


def within(names: set[str], *allowed: str) -> bool:
    return all(any(n == a or n.startswith(f"{a}.") for a in allowed) for n in names)


def test_the_package_list_is_what_is_on_disk() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {"raytune_hpo"}
    for folder in (ROOT / "raytune_hpo").iterdir():
        inits = [folder / "__init__.py", *folder.glob("*/__init__.py")]
        names = [init.parent.relative_to(ROOT).as_posix() for init in inits if init.exists()]
        on_disk |= {name.replace("/", ".") for name in names}
    assert set(settings["packages"]) == on_disk
    assert settings["package-dir"] == {
        f"raytune_hpo.{name.replace('/', '.')}": name for name in (*FOLDERS, *BELOW)
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_links_lead_to_the_folders(folder: str) -> None:
    link = ROOT / "raytune_hpo" / folder
    assert link.is_symlink()
    assert link.resolve() == ROOT / folder


def test_only_the_runner_and_the_worker_know_tune() -> None:
    # Ray Tune alone, without raytune-hpo, is what ``raytune-hpo chaos`` compares with.
    assert users_of("ray.tune") | users_of("ray.air") == {
        "raytune_hpo.chaos.plain_tune",
        "raytune_hpo.runner",
        "raytune_hpo.worker",
    }


def test_ray_is_known_in_few_places() -> None:
    places = {"cluster.local", "cluster.kuberay.connection"}
    places |= {f"slurm.{name}" for name in ("allocation", "elastic", "ray_command")}
    allowed = {"runner", "worker", "nodes", "doctor", "chaos.plain_tune", *places}
    assert users_of("ray") <= {f"raytune_hpo.{name}" for name in allowed}


def test_mlflow_is_known_to_tracking_only() -> None:
    assert within(users_of("mlflow"), "raytune_hpo.tracking", "raytune_hpo.doctor")


@pytest.mark.parametrize("kind", ["searchers", "schedulers"])
def test_algorithms_know_the_basics_and_what_they_share_only(kind: str) -> None:
    shared = ("standing", "nondominated")
    basics = ("errors", "objective", "space", "trial", "expression", "axes", *shared, kind)
    allowed = tuple(f"raytune_hpo.{name}" for name in basics)
    for module, path in MODULES.items():
        if module.startswith(f"raytune_hpo.{kind}"):
            own = {used for used in imports(path) if used.startswith("raytune_hpo")}
            assert within(own, *allowed), f"{module} imports {own}"
            siblings = {
                used.split(".")[2]
                for used in own
                if used.startswith(f"raytune_hpo.{kind}.") and used.count(".") >= 2
            }
            name = module.rpartition(".")[2]
            # `auto` chooses among the others; `mfbo` is `bo` with one dimension more.
            assert name in ("auto", "mfbo") or not siblings & ALGORITHMS - {name}, module


GATE = {"raytune_hpo.cluster.here": {"raytune_hpo.slurm", "raytune_hpo.slurm.allocation"}}
"""The one place that chooses among the ways to a Ray."""


@pytest.mark.parametrize("folder", ["cluster", "slurm"])
def test_launchers_know_errors_and_the_experiment_only(folder: str) -> None:
    # The supervisor of a Slurm job reads how far the run is; others look whether a driver lives. A
    # manifest must hold no secret.
    readers = {
        "raytune_hpo.slurm.job": ("exits", "journal", "lock"),
        "raytune_hpo.slurm.allocation": ("lock",),
        "raytune_hpo.slurm.node": ("lock",),
        "raytune_hpo.cluster.kuberay.manifest": ("running",),
    }
    for module, path in MODULES.items():
        if module.startswith(f"raytune_hpo.{folder}"):
            own = {used for used in imports(path) if used.startswith("raytune_hpo")}
            basics = ("errors", "experiment", "document", "fields", "section", "site")
            targets = ("targets", "kuberay_target", "kuberay_parts", "kuberay_fields")
            names = (*basics, *targets, "cluster", folder, *readers.get(module, ()))
            known = own - {"raytune_hpo"} - GATE.get(module, set())
            assert within(known, *(f"raytune_hpo.{name}" for name in names)), f"{module}: {own}"


def test_the_engine_is_below_everything_that_runs() -> None:
    above = {"runner", "on_ray", "ports", "simulate", "session", "testing", "chaos"}
    assert {name.split(".")[1] for name in users_of("raytune_hpo.engine")} <= above
    for user in users_of("raytune_hpo.runner"):
        assert user == "raytune_hpo.on_ray"


@pytest.mark.parametrize("reader", ["tracking", "view"])
def test_readers_of_the_journal_know_neither_engine_nor_runner(reader: str) -> None:
    for name in ("engine", "runner", "worker", "session"):
        users = {user for user in users_of(f"raytune_hpo.{name}") if user.split(".")[1] == reader}
        assert not users


def test_importing_the_package_imports_neither_ray_nor_mlflow() -> None:
    code = (
        "import sys, raytune_hpo; raytune_hpo.report; raytune_hpo.Float; raytune_hpo.Experiment;"
        "print([m for m in ('ray', 'mlflow', 'optuna') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    import raytune_hpo

    assert raytune_hpo.__all__ == sorted(raytune_hpo.__all__)
    for name in raytune_hpo.__all__:
        assert getattr(raytune_hpo, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'repot'"):
        raytune_hpo.repot  # noqa: B018
