"""A workload on a real SQLite file: a shop takes orders, looks customers up and makes reports.

The file is made in the working directory, so that it is on the disk that matters. Prints visits
of customers a second (tps), the time that 99 of 100 visits stay below (p99_ms), and the size of
the file (mib). Try it by itself: python bench.py --journal-mode wal --synchronous normal
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

CUSTOMERS = 2000
OLD_ORDERS = 40_000
VISITS_A_REPORT = 20


def connect(path: Path, options: argparse.Namespace) -> sqlite3.Connection:
    """Return a connection with the pragmas set; all values come from fixed lists or are numbers."""
    connection = sqlite3.connect(path, isolation_level=None)
    for name in ("page_size", "journal_mode", "synchronous", "cache_size", "temp_store"):
        connection.execute(f"PRAGMA {name} = {getattr(options, name)}")
    connection.execute(f"PRAGMA mmap_size = {options.mmap_mib * 1024 * 1024}")
    return connection


def order(chance: random.Random) -> tuple[int, int, str]:
    """Return customer, price in cents and note of a random order."""
    return chance.randrange(CUSTOMERS), chance.randrange(10_000), "n" * chance.randrange(400)


def fill(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Make the table, its index, and the orders of years past in one transaction."""
    connection.execute(
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, cents INTEGER, note TEXT)"
    )
    connection.execute("CREATE INDEX by_customer ON orders (customer)")
    connection.execute("BEGIN")
    insert(connection, [order(chance) for _ in range(OLD_ORDERS)])
    connection.execute("COMMIT")


def insert(connection: sqlite3.Connection, orders: list[tuple[int, int, str]]) -> None:
    """Insert orders."""
    connection.executemany("INSERT INTO orders (customer, cents, note) VALUES (?, ?, ?)", orders)


def visit(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Look three customers up by the index, and take five orders in one transaction."""
    for _ in range(3):
        customer = (chance.randrange(CUSTOMERS),)
        connection.execute("SELECT * FROM orders WHERE customer = ?", customer).fetchall()
    connection.execute("BEGIN")
    insert(connection, [order(chance) for _ in range(5)])
    connection.execute("COMMIT")


def report(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Scan a range of orders and sort what comes out."""
    first = chance.randrange(OLD_ORDERS // 2)
    connection.execute(
        "SELECT customer, sum(cents) FROM orders WHERE id BETWEEN ? AND ? GROUP BY customer "
        "ORDER BY 2 DESC",
        (first, first + OLD_ORDERS // 4),
    ).fetchall()


def work(connection: sqlite3.Connection, chance: random.Random, visits: int) -> list[float]:
    """Do the visits and the reports between them; return the seconds that each visit took."""
    seconds = []
    for number in range(visits):
        began = time.perf_counter()
        visit(connection, chance)
        seconds.append(time.perf_counter() - began)
        if number % VISITS_A_REPORT == 0:
            report(connection, chance)
    return seconds


def parse() -> argparse.Namespace:
    """Return the options; the defaults are SQLite's own."""
    parser = argparse.ArgumentParser(description="Measure a workload on SQLite.")
    parser.add_argument("--page-size", type=int, default=4096)
    parser.add_argument("--cache-size", type=int, default=-2000, help="pages, or -KiB")
    parser.add_argument("--mmap-mib", type=int, default=0)
    parser.add_argument("--journal-mode", choices=("delete", "truncate", "wal"), default="delete")
    parser.add_argument("--synchronous", choices=("normal", "full"), default="full")
    parser.add_argument("--temp-store", choices=("file", "memory"), default="file")
    parser.add_argument("--visits", type=int, default=300)
    return parser.parse_args()


def main() -> None:
    """Run the workload with the options given and print the figures."""
    options = parse()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "orders.db"
        connection = connect(path, options)
        fill(connection, chance)
        began = time.perf_counter()
        seconds = work(connection, chance, options.visits)
        took = time.perf_counter() - began
        connection.close()
        size = path.stat().st_size / 1024 / 1024
    p99_ms = 1000 * statistics.quantiles(seconds, n=100)[98]
    print(f"tps={options.visits / took:.1f} p99_ms={p99_ms:.4f} mib={size:.3f}")


if __name__ == "__main__":
    main()
