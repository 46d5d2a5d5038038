"""How good the configs are that tuners find, and what a suggestion costs.

Runs are simulated: tasks answer at once, and a virtual clock says which trial ends first. They are
kept as lines of JSON, and a run that is there is not run again. docs/search-quality.md explains
what is measured.

Examples:
    python benchmarks/search_quality.py run --searchers tpe,optuna-tpe --suite bbob --out r.jsonl
    python benchmarks/search_quality.py report r.jsonl --against optuna-tpe
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

from benchmarks.quality.cli import main

if __name__ == "__main__":
    main()
