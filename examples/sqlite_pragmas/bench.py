"""A workload on a real SQLite file: orders come in one by one, are looked up, and are summed up.

Prints how many operations a second it did (ops), the slowest percent of the inserts in
milliseconds (p99_ms), and the size of the file (mib).
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

ORDERS = 3000


def connect(path: Path, options: argparse.Namespace) -> sqlite3.Connection:
    """Return a connection with the pragmas set; all values come from fixed lists or are numbers."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name in ("page_size", "journal_mode", "synchronous", "cache_size", "temp_store"):
        connection.execute(f"PRAGMA {name} = {getattr(options, name)}")
    connection.execute(f"PRAGMA mmap_size = {options.mmap_mib * 1024 * 1024}")
    return connection


def work(connection: sqlite3.Connection) -> list[float]:
    """Insert, look up and sum up; return the seconds that each insert took."""
    chance = random.Random(1)
    connection.execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, cents INTEGER, note TEXT)"
    )
    connection.execute("CREATE INDEX by_customer ON orders (customer)")
    seconds = []
    for number in range(ORDERS):
        row = (number, chance.randrange(500), chance.randrange(10_000), "n" * chance.randrange(400))
        began = time.perf_counter()
        connection.execute("INSERT INTO orders VALUES (?, ?, ?, ?)", row)
        seconds.append(time.perf_counter() - began)
        if number % 3 == 0:
            customer = (chance.randrange(500),)
            connection.execute("SELECT sum(cents) FROM orders WHERE customer = ?", customer)
        if number % 300 == 0:
            connection.execute(
                "SELECT customer, sum(cents) FROM orders GROUP BY customer ORDER BY 2 DESC"
            ).fetchall()
    return seconds


def main() -> None:
    """Run the workload with the options given and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--page-size", type=int, default=4096)
    parser.add_argument("--cache-size", type=int, default=-2000)
    parser.add_argument("--mmap-mib", type=int, default=0)
    parser.add_argument("--journal-mode", choices=("delete", "truncate", "wal"), default="delete")
    parser.add_argument("--synchronous", choices=("normal", "full"), default="full")
    parser.add_argument("--temp-store", choices=("file", "memory"), default="file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.db"
        connection = connect(path, options)
        began = time.perf_counter()
        seconds = work(connection)
        took = time.perf_counter() - began
        connection.close()
        size = path.stat().st_size / 1024 / 1024
    p99_ms = 1000 * statistics.quantiles(seconds, n=100)[98]
    print(f"ops={ORDERS / took:.1f} p99_ms={p99_ms:.4f} mib={size:.3f}")


if __name__ == "__main__":
    main()
