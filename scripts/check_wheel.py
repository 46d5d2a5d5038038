"""Build the sdist, the wheel from it, and import every module of it outside the repository."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("raytune_hpo", "searchers", "schedulers", "cluster", "slurm")


def modules() -> set[str]:
    """Return the path of every module as the wheel has to hold it."""
    found = set()
    for folder in FOLDERS:
        prefix = "" if folder == "raytune_hpo" else "raytune_hpo/"
        for path in (ROOT / folder).rglob("*.py"):
            if not path.relative_to(ROOT).parent.is_symlink():
                found.add(prefix + path.relative_to(ROOT).as_posix())
    return {path for path in found if not _through_link(path)}


def _through_link(path: str) -> bool:
    parts = path.split("/")
    return len(parts) > 2 and (ROOT / parts[0] / parts[1]).is_symlink() and parts[1] not in FOLDERS


def main() -> None:
    """Build, compare and import."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "build", "--outdir", folder, str(ROOT)], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            packed = {name for name in archive.namelist() if name.endswith(".py")}
        if packed != modules():
            sys.exit(f"the wheel and the folders differ in: {sorted(packed ^ modules())}")
        names = sorted(name[:-3].replace("/", ".").removesuffix(".__init__") for name in packed)
        code = "import importlib,sys; sys.path.insert(0, sys.argv[1]); " + (
            "[importlib.import_module(n) for n in sys.argv[2:]]; import raytune_hpo; "
            "assert raytune_hpo.__file__.startswith(sys.argv[1]), raytune_hpo.__file__"
        )
        names = [name for name in names if not name.endswith("__main__")]
        subprocess.run([sys.executable, "-c", code, str(wheel), *names], cwd=folder, check=True)
    print(f"{len(names)} modules packed and imported")


if __name__ == "__main__":
    main()
