"""``python -m raytune_hpo.tracking follow RUN_DIR``: the tracker's process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from raytune_hpo.tracking import follow as process
from raytune_hpo.tracking import store


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m raytune_hpo.tracking")
    commands = parser.add_subparsers(dest="command", required=True)
    follow = commands.add_parser("follow", help="bring a journal to its trackers as it grows")
    follow.add_argument("run_dir", type=Path)
    follow.add_argument("--ahead", type=int, default=0, help="MLflow runs to make in advance")
    follow.add_argument("--uri", help="another MLflow store than the journal says")
    follow.add_argument("--no-mlflow", dest="mlflow", action="store_false")
    follow.add_argument("--tensorboard", action="store_true")
    for option, default_s, text in (
        ("--catch-up", process.CATCH_UP_S, "to go on after the driver's end"),
        ("--hard-limit", process.HARD_LIMIT_S, "that a call may hang after that"),
        ("--request-timeout", store.REQUEST_TIMEOUT_S, "that a server may be silent"),
    ):
        follow.add_argument(option, type=float, default=default_s, metavar="SECONDS", help=text)
    given = parser.parse_args(arguments)

    return process.main(
        given.run_dir,
        ahead=given.ahead,
        uri=given.uri,
        mlflow=given.mlflow,
        tensorboard=given.tensorboard,
        catch_up_s=given.catch_up,
        hard_limit_s=given.hard_limit,
        request_timeout_s=given.request_timeout,
    )


if __name__ == "__main__":
    sys.exit(main())
