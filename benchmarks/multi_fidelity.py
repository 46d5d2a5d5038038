"""How fast tuners are that stop trials early, compared with random search.

Runs are simulated by the engine's own simulation, with the times that the jobs would take. They are
kept as lines of JSON, and a run that is there is not run again. docs/multi-fidelity.md explains
what is measured.

Examples:
    python benchmarks/multi_fidelity.py run --tuners none+random,asha+bohb --data DIR --out r.jsonl
    python benchmarks/multi_fidelity.py report r.jsonl --markdown
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before numpy is imported: one thread, so that CPU times compare and processes do not collide.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.fidelity.cli import main

if __name__ == "__main__":
    main()
