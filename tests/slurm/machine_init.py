"""Process 1 of a machine of the lab: a program, started in new namespaces by machine.py.

Standard input has one JSON line with what the machine is; the line comes when the network is there.
Afterwards this process does what an init has to: it collects the processes that lost their parent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


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


def set_up(machine: dict[str, Any]) -> None:
    call("hostname", machine["name"])
    call("ip", "address", "add", f"{machine['address']}/24", "dev", "eth0")
    call("ip", "link", "set", "eth0", "up")
    call("ip", "link", "set", "lo", "up")
    call("mount", "--bind", machine["hosts"], "/etc/hosts")
    call("mount", "-t", "tmpfs", "-o", "mode=1777,size=1g", "shm", "/dev/shm")
    for path in machine["shared"]:
        place = Path(machine["tmp"], Path(path).relative_to("/tmp"))
        place.mkdir(parents=True, exist_ok=True)
        call("mount", "--bind", path, str(place))
    call("mount", "--rbind", machine["tmp"], "/tmp")


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
