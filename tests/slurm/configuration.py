"""The files of a lab's Slurm, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """What one lab has; two labs with different numbers share nothing.

    Attributes:
        number: Of the lab; names, addresses and ports come from it.
        nodes: How many compute nodes it has.
        folder: Where all its files are.
        cpus: Of a node, whatever the host has.
        memory_mb: Of a node, whatever the host has.
        gpus: Of a node; they are only counted.
        accounting: With slurmdbd, accounts and QOS.
    """

    number: int
    nodes: int
    folder: Path
    cpus: int = 4
    memory_mb: int = 4000
    gpus: int = 2
    accounting: bool = False

    @property
    def prefix(self) -> str:
        """Return how node names begin: n, m, p, ..."""
        return "nmpqrstu"[self.number]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the compute nodes."""
        return tuple(f"{self.prefix}{index}" for index in range(1, self.nodes + 1))

    @property
    def bridge(self) -> str:
        """Return the name of the network interface that joins the machines."""
        return f"rthlab{self.number}"

    @property
    def addresses(self) -> dict[str, str]:
        """Return the address of every machine by its name; `host` is this host's own."""
        last = dict(zip(self.names, range(1, self.nodes + 1), strict=True))
        last |= {"control": 250, "login": 251, "host": 254}
        return {name: f"10.77.{self.number}.{number}" for name, number in last.items()}

    @property
    def port(self) -> int:
        """Return the first of ten ports."""
        return 16810 + 10 * self.number

    @property
    def socket(self) -> Path:
        """Return the socket of munge."""
        return self.folder / "munge" / "socket"


def hosts(layout: Layout) -> str:
    """Return /etc/hosts of the machines."""
    lines = [f"{address} {name}" for name, address in layout.addresses.items()]
    return _text(["127.0.0.1 localhost", *lines])


def gres(layout: Layout) -> str:
    """Return gres.conf."""
    if not layout.gpus:
        return ""
    files = f"{layout.folder}/dev/nvidia[0-{layout.gpus - 1}]"
    return f"NodeName={','.join(layout.names)} Name=gpu File={files}\n"


def slurm(layout: Layout, settings: Mapping[str, str]) -> str:
    """Return slurm.conf.

    Args:
        layout: What the lab has.
        settings: More settings, also instead of the lab's.
    """
    folder, addresses = layout.folder, layout.addresses
    chosen = {
        "ClusterName": f"lab{layout.number}",
        "SlurmctldHost": f"control({addresses['control']})",
        "SlurmctldPort": str(layout.port),
        "SlurmdPort": str(layout.port + 1),
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={layout.socket}",
        "MpiDefault": "none",
        "MailProg": "/bin/true",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "StateSaveLocation": f"{folder}/state",
        "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
        "SlurmdPidFile": f"{folder}/run/slurmd-%n.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
        "SlurmdLogFile": f"{folder}/log/slurmd-%n.log",
        "ReturnToService": "2",
        "SlurmctldTimeout": "30",
        "SlurmdTimeout": "15",
        "KillWait": "20",
        "MinJobAge": "300",
        "InactiveLimit": "0",
        "OverTimeLimit": "0",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "bf_interval=2,sched_min_interval=100000,batch_sched_delay=0",
        # A job asks for memory too; else each would take all of a node.
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        # A node has what is written here, not what the host has.
        "SlurmdParameters": "config_overrides",
        "JobRequeue": "1",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "GresTypes": "gpu",
        **_accounting(layout),
        **settings,
    }
    lines = [f"{name}={value}" for name, value in chosen.items()]
    for name in layout.names:
        size = f"CPUs={layout.cpus} RealMemory={layout.memory_mb}"
        gpus = f" Gres=gpu:{layout.gpus}" if layout.gpus else ""
        lines.append(f"NodeName={name} NodeAddr={addresses[name]} {size}{gpus} State=UNKNOWN")
    return _text([*lines, *_partitions()])


def slurmdbd(layout: Layout, password: str) -> str:
    """Return slurmdbd.conf.

    Args:
        layout: What the lab has.
        password: Of the database.
    """
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={layout.socket}",
        "DbdHost=control",
        f"DbdPort={layout.port + 2}",
        "SlurmUser=root",
        "StorageType=accounting_storage/mysql",
        "StorageHost=127.0.0.1",
        f"StoragePort={layout.port + 3}",
        "StorageUser=slurm",
        f"StoragePass={password}",
        "StorageLoc=slurm_acct_db",
        f"LogFile={layout.folder}/log/slurmdbd.log",
        f"PidFile={layout.folder}/run/slurmdbd.pid",
    ]
    return _text(lines)


def _accounting(layout: Layout) -> dict[str, str]:
    if not layout.accounting:
        return {
            "AccountingStorageType": "accounting_storage/none",
            "JobCompType": "jobcomp/filetxt",
            "JobCompLoc": f"{layout.folder}/log/jobs.txt",
        }
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": layout.addresses["control"],
        "AccountingStoragePort": str(layout.port + 2),
        # Where the commands find munge when they ask slurmdbd.
        "AccountingStoragePass": str(layout.socket),
        "AccountingStorageEnforce": "associations,limits,qos",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=5",
    }


def _partitions() -> list[str]:
    """Return the partitions: `low` gives way to the two others."""
    common = "Nodes=ALL State=UP DefMemPerCPU=500"
    return [
        f"PartitionName=main {common} Default=YES MaxTime=1-0 DefaultTime=30:00 "
        "PriorityTier=10 PreemptMode=OFF",
        f"PartitionName=short {common} MaxTime=5:00 PriorityTier=5 PreemptMode=OFF",
        f"PartitionName=low {common} MaxTime=1-0 DefaultTime=30:00 "
        "PriorityTier=1 PreemptMode=REQUEUE GraceTime=10",
    ]


def _text(lines: Iterable[str]) -> str:
    return "\n".join([*lines, ""])
