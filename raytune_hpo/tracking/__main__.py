"""``python -m raytune_hpo.tracking follow RUN_DIR``: the tracker's process."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


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
    follow.add_argument("--catch-up", type=float, default=30.0, metavar="SECONDS")
    given = parser.parse_args(arguments)

    from raytune_hpo.tracking import follow as process

    return process.main(
        given.run_dir,
        ahead=given.ahead,
        uri=given.uri,
        mlflow=given.mlflow,
        tensorboard=given.tensorboard,
        catch_up_s=given.catch_up,
    )


if __name__ == "__main__":
    sys.exit(main())
