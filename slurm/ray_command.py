"""Ray's command line without the parts that ``ray start`` does not use, run as a program.

Where Ray Serve can be imported, each command of Ray's imports it, and starting Ray on a node takes
three times as long for it. Ray leaves out those parts of its command line that cannot be imported,
and without gRPC for Python its server for remote clients, which nobody would use.
"""

from __future__ import annotations

import sys

_UNUSED = ("ray.serve", "ray.dashboard.modules.job.cli", "ray.util.state.state_cli", "grpc")


def main() -> None:
    """Run the command that the arguments say."""
    for name in _UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]
    from ray.scripts import scripts

    scripts.main()


if __name__ == "__main__":
    main()
