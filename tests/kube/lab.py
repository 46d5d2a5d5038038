"""A cluster with KubeRay on this host, to try things by hand: a real control plane, played nodes.

    python -m tests.kube.lab up [N]      start it, with N nodes (3), unless it runs
    python -m tests.kube.lab run CMD     run a command with KUBECONFIG set
    python -m tests.kube.lab stop NAME   kill a node (n1) or a daemon (ray-operator); start NAME
    python -m tests.kube.lab down        end all its processes and remove all its files

Needs Linux, root, Go 1.26 the first time (see build.py), and Debian's etcd-server and iproute2.
It touches nothing but its own folder below /var/lib, a network bridge, and processes it started.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from tests.kube.cluster import KubeLab, missing
from tests.kube.layout import Size


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.kube.lab", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--number", type=int, default=0, help="of the cluster; above 0 for tests")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="start it")
    up.add_argument("nodes", type=int, nargs="?", default=3)
    up.add_argument("--cpus", type=int, default=4, help="of each node")
    up.add_argument("--memory", default="8Gi", help="of each node")
    up.add_argument("--gpus", type=int, default=0, help="of each node; they do not exist")
    verbs.add_parser("down", help="remove it")
    for verb in ("stop", "start"):
        verbs.add_parser(verb, help=f"{verb} a node or daemon").add_argument("name")
    execute = verbs.add_parser("run", help="run a command with KUBECONFIG set")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="CMD")
    chosen = parser.parse_args(arguments)
    if chosen.verb == "up":
        return _up(KubeLab(chosen.nodes, chosen.number, _size(chosen)))
    lab = KubeLab(14, chosen.number)
    if chosen.verb == "down":
        lab.down()
        return 0
    if not lab.config.exists():
        print("It is not up: python -m tests.kube.lab up", file=sys.stderr)
        return 1
    if chosen.verb == "run":
        environment = {**os.environ, "KUBECONFIG": str(lab.config)}
        return subprocess.run(chosen.words, env=environment).returncode
    (lab.stop if chosen.verb == "stop" else lab.start)(chosen.name)
    return 0


def _size(chosen: argparse.Namespace) -> Size:
    return Size(cpus=chosen.cpus, memory=chosen.memory, gpus=chosen.gpus)


def _up(lab: KubeLab) -> int:
    if reason := missing():
        print(f"No cluster can be started here: {reason}", file=sys.stderr)
        return 1
    lab.up()
    print(f"{len(lab.nodes)} nodes: {', '.join(lab.nodes)}. On this host:")
    print(f"export KUBECONFIG={lab.config}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
