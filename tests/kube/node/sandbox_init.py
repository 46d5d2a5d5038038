"""Process 1 of a pod: a program that sandbox.py starts in new namespaces.

Standard input has one JSON line with what the pod is; the line comes when the network is there.
Afterwards this process does what an init has to: it collects processes that lost their parent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import kernel  # type: ignore[import-not-found]


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    print("here", flush=True)
    set_up(json.loads(sys.stdin.readline()))
    print("ready", flush=True)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    while True:
        collect()
        signal.sigwait({signal.SIGCHLD})


def set_up(pod: dict[str, Any]) -> None:
    call("hostname", pod["hostname"])
    call("ip", "address", "add", pod["address"], "dev", "eth0")
    call("ip", "link", "set", "eth0", "up")
    call("ip", "link", "set", "lo", "up")
    for path, size in pod["memory"].items():
        # Seen by all containers of the pod, as they begin with this mount namespace.
        options = f"mode=1777,size={size}" if size else "mode=1777"
        kernel.mount("memory", path, "tmpfs", 0, options)


def call(*words: str) -> None:
    subprocess.run(words, check=True)


def collect() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
