"""Builds what the cluster of the tests runs on, once: a control plane and the KubeRay operator.

    python -m tests.kube.build    builds unless it is done, and says where it lies

Needs Go 1.26. From nothing it takes 15 minutes of one core. The result lies in a folder of
~/.cache/raytune-hpo-kube, or of $RAYTUNE_HPO_KUBE_CACHE, that is named by the versions and sources.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = "v1.36.2"  # as in control_plane/go.mod
OPERATOR = "github.com/ray-project/kuberay/ray-operator"
OPERATOR_VERSION = os.environ.get("RAYTUNE_HPO_KUBERAY", "v1.6.2")
KUEUE = "sigs.k8s.io/kueue"
KUEUE_VERSION = "v0.17.0"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
CACHE_VARIABLE = "RAYTUNE_HPO_KUBE_CACHE"
_SOURCES = Path(__file__).with_name("control_plane")
_GO = "go1.26"  # with 1.27 the API server's /openapi/v2 is broken, and so is kubectl apply
_GO_TO_FETCH = "go1.26.0"
_VERSION_PACKAGE = "k8s.io/component-base/version"
_OPTIONS = ("-trimpath", "-buildvcs=false")
_SETTINGS = {"CGO_ENABLED": "0", "GOGC": "400"}
"""Of Go: the compiler looks for garbage less often, which takes a sixth of its time."""
_LEAN = "-s -w"
_USED = ("rayclusters", "rayjobs", "rayservices")
_QUEUES = ("clusterqueues", "localqueues", "resourceflavors")


def folder() -> Path:
    """Return the folder of the programs, which is there when they are built."""
    return _cache() / _name()


def missing() -> str | None:
    """Return why there are no programs and can be none; None when there are or can be."""
    if folder().exists() or shutil.which("go") is not None:
        return None
    return "no Go to build the control plane with: install Go 1.26"


def build() -> Path:
    """Build the programs unless they are there, and return their folder.

    Another process that builds them is waited for.

    Raises:
        RuntimeError: The build failed; the message has the end of what Go said.
    """
    if folder().exists():
        return folder()
    _cache().mkdir(parents=True, exist_ok=True)
    with _alone():
        if not folder().exists():
            for left in _cache().glob("building-*"):
                shutil.rmtree(left)
            made = Path(tempfile.mkdtemp(prefix="building-", dir=_cache()))
            made.chmod(0o755)
            _build_control_plane(made / "bin")
            _build_operator(made / "bin")
            operator, kueue = f"{OPERATOR}@{OPERATOR_VERSION}", f"{KUEUE}@{KUEUE_VERSION}"
            for name, definitions in {
                "crds.json": _definitions(operator, "config/crd/bases", _USED, "v1"),
                "kueue.json": _definitions(
                    kueue, "config/components/crd/bases", _QUEUES, "v1beta2"
                ),
            }.items():
                (made / name).write_text(json.dumps(definitions))
            made.rename(folder())
    return folder()


def _build_control_plane(programs: Path) -> None:
    major, minor, _ = KUBERNETES[1:].split(".")
    facts = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    told = " ".join(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in facts.items())
    made = programs / "control-plane"
    _go(["build", *_OPTIONS, "-mod=readonly", f"-ldflags={_LEAN} {told}", "-o", str(made), "."])
    for name in PROGRAMS:
        (programs / name).symlink_to(made.name)


def _build_operator(programs: Path) -> None:
    words = ["install", *_OPTIONS, f"-ldflags={_LEAN}", f"{OPERATOR}@{OPERATOR_VERSION}"]
    _go(words, {"GOBIN": str(programs)})


def _definitions(
    module: str, bases: str, plurals: Sequence[str], version: str
) -> list[dict[str, Any]]:
    """Return those of a module's custom resource definitions that are used, in one version.

    Each costs the API server a second, and so does each further version.
    """
    words = ["mod", "download", "-json", module]
    folder = Path(json.loads(_go(words))["Dir"]) / bases
    found = [
        yaml.load(path.read_text(), yaml.CSafeLoader) for path in sorted(folder.glob("*.yaml"))
    ]
    for definition in found:
        versions = definition["spec"]["versions"]
        definition["spec"]["versions"] = [one for one in versions if one["name"] == version]
    return [one for one in found if one["spec"]["names"]["plural"] in plurals]


def _go(words: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """Run Go in the folder of the control plane's module and return its output."""
    done = subprocess.run(
        ["go", *words],
        cwd=_SOURCES,
        env={**os.environ, **_SETTINGS, "GOTOOLCHAIN": _toolchain(), **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise RuntimeError(f"go {' '.join(words)} failed ({done.returncode}):\n{said}")
    return done.stdout


def _toolchain() -> str:
    """Return which Go to use: the installed one when it is right, else one that Go fetches."""
    words = ["go", "env", "GOVERSION"]
    variables = {**os.environ, "GOTOOLCHAIN": "local"}
    found = subprocess.run(
        words, env=variables, cwd="/", capture_output=True, text=True, check=True
    )
    right = found.stdout.strip().startswith(f"{_GO}.") or found.stdout.strip() == _GO
    return "local" if right else _GO_TO_FETCH


def _cache() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "raytune-hpo-kube")


def _name() -> str:
    """Return a name for the sources and versions."""
    parts = [path.read_bytes() for path in sorted(_SOURCES.iterdir())]
    versions = (KUBERNETES, OPERATOR, OPERATOR_VERSION, KUEUE, KUEUE_VERSION)
    parts += [text.encode() for text in (*versions, *_OPTIONS, _LEAN)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other processes from building at the same time."""
    with (_cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build, and say where the programs lie."""
    if reason := missing():
        print(f"The control plane cannot be built: {reason}", file=sys.stderr)
        return 1
    print(build())
    return 0


if __name__ == "__main__":
    sys.exit(main())
