"""The command of a RayJob: the driver, for as long and with the exit code that KubeRay needs.

In SidecarMode KubeRay takes note of the end of a job only once the head counts as ready, some ten
seconds after its start: a job that ends before is taken to be starting until its time for that is
over. And a driver that was asked to stop has done what it should, so it is not to be tried again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

LEAST_S = 30.0
STOPPED = 130
"""Exit code of a driver that was stopped in good order (``raytune_hpo.exits.INTERRUPTED``)."""


def main(words: Sequence[str], least_s: float = LEAST_S) -> int:
    """Run ``raytune-hpo`` with some words to its end, and return the exit code for KubeRay."""
    began_s = time.monotonic()
    code = subprocess.call([sys.executable, "-m", "raytune_hpo", *words])
    time.sleep(max(0.0, began_s + least_s - time.monotonic()))
    return 0 if code == STOPPED else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
