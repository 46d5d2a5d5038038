"""Building the control plane: once, whole or not at all. The Go here is a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.kube import build

GO = """#!/bin/sh
echo "$GOTOOLCHAIN $*" >>"$CALLS"
case $1 in
env) echo "$GO_VERSION" ;;
build)
    [ -z "$FAILS" ] || { echo some words of the compiler >&2; exit 1; }
    sleep 0.5
    while [ "$1" != -o ]; do shift; done
    mkdir -p "$(dirname "$2")" && : >"$2"
    ;;
install) : >"$GOBIN/ray-operator" ;;
mod) echo "{\\"Dir\\": \\"$MODULE\\"}" ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a Go that only notes its calls, and an empty cache; return the file of calls."""
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(GO)
    go.chmod(0o755)
    for place, plurals in {
        "crd/bases": ("rayjobs", "raycronjobs"),
        "components/crd/bases": ("localqueues", "topologies"),
    }.items():
        bases = tmp_path / "module" / "config" / place
        bases.mkdir(parents=True)
        for plural in plurals:
            versions = [{"name": name} for name in ("v1", "v1alpha1", "v1beta2")]
            spec = {"names": {"plural": plural}, "versions": versions}
            (bases / f"{plural}.yaml").write_text(yaml.safe_dump({"spec": spec}))
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("MODULE", str(tmp_path / "module"))
    monkeypatch.setenv("GO_VERSION", "go1.26.8")
    monkeypatch.setenv("FAILS", "")
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "calls"


def built(calls: Path) -> list[str]:
    """Return the calls that built the control plane."""
    return [line for line in calls.read_text().splitlines() if line.split()[1] == "build"]


def test_the_programs_and_definitions_are_built_once(calls: Path) -> None:
    made = build.build()

    assert build.build() == made
    assert len(built(calls)) == 1
    assert sorted(path.name for path in (made / "bin").iterdir()) == [
        "control-plane",
        *build.PROGRAMS,
        "ray-operator",
    ]
    for name, plural, version in (
        ("crds.json", "rayjobs", "v1"),
        ("kueue.json", "localqueues", "v1beta2"),
    ):
        (definition,) = json.loads((made / name).read_text())
        assert definition["spec"]["names"]["plural"] == plural
        assert definition["spec"]["versions"] == [{"name": version}]


def test_two_processes_build_once(calls: Path) -> None:
    words = [sys.executable, "-m", "tests.kube.build"]
    root = Path(__file__).parents[2]
    both = [subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]

    said = {process.communicate()[0].strip() for process in both}

    assert said == {str(build.folder())}
    assert len(built(calls)) == 1


def test_a_failed_build_says_why_and_leaves_nothing(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "yes")

    with pytest.raises(RuntimeError, match="some words of the compiler"):
        build.build()
    assert not build.folder().exists()

    monkeypatch.setenv("FAILS", "")
    made = build.build()
    assert sorted(path.name for path in made.parent.iterdir()) == [made.name, "lock"]


@pytest.mark.parametrize(("version", "wanted"), [("go1.26.8", "local"), ("go1.27.1", "go1.26.0")])
def test_the_right_go_is_used(
    calls: Path, monkeypatch: pytest.MonkeyPatch, version: str, wanted: str
) -> None:
    monkeypatch.setenv("GO_VERSION", version)

    build.build()

    assert built(calls)[0].startswith(f"{wanted} build ")


def test_what_is_in_the_cache_needs_no_go(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = build.build()

    monkeypatch.setenv("PATH", "/nowhere")

    assert build.missing() is None
    assert build.build() == made
    made.rename(made.with_name("other"))
    assert build.missing() == "no Go to build the control plane with: install Go 1.26"
