"""Accounts and QOS for a lab: MariaDB and slurmdbd on its machine `control`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from tests.slurm import configuration
from tests.slurm.configuration import Layout
from tests.slurm.machine import Machine, run, wait_until

PACKAGES = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server-core", "mariadb-client-core")
PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")
_PATIENCE_S = 240.0
_ENTRIES = (
    "add account lab Description=lab Organization=lab",
    "add user root Account=lab DefaultAccount=lab",
    "modify qos normal set Priority=10",
    "add qos high Priority=100",
    "add qos debug MaxWall=00:05:00 MaxJobsPerUser=2",
    "modify user root set QOS=normal,high,debug",
)


def start(layout: Layout, machine: Machine, environment: Mapping[str, str]) -> None:
    """Start the database and slurmdbd, unless they run, and make the accounts."""
    folder = layout.folder / "database"
    running = {process.program for process in machine.processes()}
    fresh = not folder.exists()
    if fresh:
        _create(layout, folder)
    if "mariadbd" not in running:
        _start_database(layout, folder, machine, environment)
    if "slurmdbd" not in running:
        machine.run(["slurmdbd"], environment)
        _wait_for_answer(environment)
    if fresh:
        words = [f"add cluster lab{layout.number}", *_ENTRIES]
        for entry in words:
            run(["sacctmgr", "--immediate", *entry.split()], environment)


def _create(layout: Layout, folder: Path) -> None:
    password = secrets.token_hex(12)
    folder.mkdir(mode=0o700)
    install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder}/data"]
    run([*install, "--auth-root-authentication-method=normal", "--skip-test-db"])
    statements = [
        "CREATE DATABASE slurm_acct_db;",
        f"CREATE USER slurm@localhost IDENTIFIED BY '{password}';",
        "GRANT ALL ON slurm_acct_db.* TO slurm@localhost;",
    ]
    (folder / "init.sql").write_text("\n".join([*statements, ""]))  # one a line
    configured = layout.folder / "slurmdbd.conf"
    configured.touch(0o600)
    configured.write_text(configuration.slurmdbd(layout, password))


def _start_database(
    layout: Layout, folder: Path, machine: Machine, environment: Mapping[str, str]
) -> None:
    words = [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={folder}/data",
        f"--socket={folder}/socket",
        f"--port={layout.port + 3}",
        "--bind-address=127.0.0.1",
        f"--log-error={layout.folder}/log/mariadb.log",
        "--innodb-buffer-pool-size=64M",
        "--innodb-lock-wait-timeout=900",
        "--innodb-flush-log-at-trx-commit=0",
    ]
    begun = folder / "begun"
    if not begun.exists():
        words.append(f"--init-file={folder}/init.sql")
        begun.touch()
    socket = folder / "socket"
    socket.unlink(missing_ok=True)
    machine.run(["sh", "-c", '"$@" >/dev/null 2>&1 </dev/null &', "sh", *words], environment)
    wait_until(socket.exists, "MariaDB did not start", _PATIENCE_S)


def _wait_for_answer(environment: Mapping[str, str]) -> None:
    """Wait for slurmdbd; a command of its own would wait for minutes."""

    def answers() -> bool:
        words = ["timeout", "5", "sacctmgr", "-n", "show", "cluster"]
        return run(words, environment, check=False).returncode == 0

    wait_until(answers, "slurmdbd does not answer", _PATIENCE_S)
