"""Makes a container: its process 1, until that becomes its command, and who waits for that.

Standard input has one JSON line with what the container is. The answer is the line `ready`, or
`error: ` and why there can be no such container; after that the output is the command's.

The file system is the host's, with a layer in memory that takes what is written and ends with the
container; /tmp, /dev/shm and volumes are others.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import kernel  # type: ignore[import-not-found]

_OLD = ".host"


def main() -> None:
    about = json.loads(sys.stdin.readline())
    kernel.leave(kernel.NEW_MOUNTS | kernel.NEW_PIDS)
    child = os.fork()
    if child:
        # The program `unshare` would do for this too, but tells not all ends as they were.
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(code if code >= 0 else 128 - code)
    kernel.die_with_parent()
    try:
        build_root(Path(about["layer"]))
        fill_root(about)
        program = find(about["command"][0], about["environment"])
    except OSError as error:
        print(f"error: {error}", flush=True)
        sys.exit(128)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Python has it ignored, and the command would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print("ready", flush=True)
    os.execve(program, about["command"], about["environment"])


def build_root(layer: Path) -> None:
    """Mount the host's files with a layer of the container's own, and make that the root."""
    kernel.mount("layer", layer, "tmpfs", 0, "mode=755")
    for name in ("upper", "work", "root"):
        (layer / name).mkdir()
    root = layer / "root"
    folders = f"lowerdir=/,upperdir={layer / 'upper'},workdir={layer / 'work'}"
    kernel.mount("root", root, "overlay", 0, folders)
    kernel.bind("/dev", root / "dev")
    kernel.bind("/sys", root / "sys")
    kernel.mount("proc", root / "proc", "proc")
    kernel.mount("tmp", root / "tmp", "tmpfs", 0, "mode=1777")
    kernel.change_root(root, _OLD)


def fill_root(about: dict[str, Any]) -> None:
    """Bring in what the image and the volumes hold."""
    device = Path("/", _OLD).stat().st_dev
    for path in about["image"]:
        # What is a file system of its own on the host, or below /tmp, is not in the root's layer.
        source = Path(f"/{_OLD}{path}")
        if source.stat().st_dev != device or Path("/tmp") in Path(path).parents:
            Path(path).mkdir(parents=True, exist_ok=True)
            kernel.bind(source, path)
    for volume in about["mounts"]:
        source, target = Path(f"/{_OLD}{volume['source']}"), Path(volume["target"])
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        kernel.bind(source, target, read_only=volume["read_only"])
    Path("/etc/resolv.conf").unlink(missing_ok=True)
    Path("/etc/resolv.conf").touch()
    Path(about["environment"]["HOME"]).mkdir(parents=True, exist_ok=True)
    kernel.unmount(f"/{_OLD}")
    Path(f"/{_OLD}").rmdir()
    Path(about["folder"]).mkdir(parents=True, exist_ok=True)
    os.chdir(about["folder"])


def find(name: str, environment: dict[str, str]) -> str:
    """Return the path of a program."""
    found = shutil.which(name, path=environment["PATH"])
    if found is None:
        raise FileNotFoundError(f'exec: "{name}": executable file not found in $PATH')
    return found


if __name__ == "__main__":
    main()
