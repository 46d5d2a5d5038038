"""What Slurm says of a job, in plain words, with the next step where there is one."""

from __future__ import annotations

import time

from raytune_hpo.slurm.commands import Job

_REASONS = {
    "Priority": "other jobs are ahead in the queue",
    "Resources": "it is next, as soon as enough nodes, CPUs, GPUs and memory are free",
    "BeginTime": "a job that was requeued waits for two minutes",
    "Dependency": "it begins when the job that it follows has ended",
    "DependencyNeverSatisfied": "the job that it follows can never end as wanted: scancel {id}, "
    "then resume the run",
    "JobArrayTaskLimit": "as many tasks of its array run as may run at once",
    "JobHeldUser": "you have held it; let it go by: scontrol release {id}",
    "JobHeldAdmin": "an administrator has held it; ask your site",
    "JobHoldMaxRequeue": "it was requeued too often and is held; when the cause is gone: "
    "scontrol release {id}",
    "Licenses": "it waits for licenses",
    "ReqNodeNotAvail": "nodes that it could use are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "no node can meet what it asks for; look at targets.slurm",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs to run now",
    "PartitionNodeLimit": "it asks for more nodes than its partition allows; look at targets.slurm",
    "PartitionTimeLimit": "it asks for more time than its partition allows; lower "
    "targets.slurm.time, the job is requeued at its limit and goes on",
    "PartitionConfig": "its partition cannot give what it asks for; look at targets.slurm",
    "Reservation": "it waits for its reservation to begin",
    "ReservationDeleted": "its reservation is gone; change targets.slurm.reservation",
    "InvalidAccount": "its account is not valid; change targets.slurm.account",
    "InvalidQOS": "its QOS is not valid; change targets.slurm.qos",
    "QOSNotAllowed": "its QOS is not allowed in this partition; change targets.slurm.qos",
    "AccountNotAllowed": "its account may not use this partition",
    "AccountingPolicy": "a limit of your account is reached",
    "NonZeroExitCode": "its script ended with an error; look at its log",
    "TimeLimit": "its time was over",
    "NodeFail": "a node failed",
    "JobLaunchFailure": "its script could not be started on its node, or was lost there",
    "launch_failed_requeued_held": "it could not be started and is held; let it go by: "
    "scontrol release {id}",
    "OutOfMemory": "it used more memory than it had; raise targets.slurm.memory",
    "RaisedSignal": "its script was ended by a signal",
    "SystemFailure": "Slurm itself failed",
    "Cleaning": "what it left of its last start is being cleaned up",
    "Prolog": "the site's own preparation of its nodes runs",
    "FrontEndDown": "no front end is there to start it",
    "BurstBufferResources": "it waits for burst buffers",
    "Reboot": "its nodes are being rebooted",
}
_LIMITS = (
    ("MaxJobsPer", "as many of your jobs run as may run at once"),
    ("MaxSubmit", "as many jobs of yours are queued as may be"),
    ("MaxWall", "it asks for more time than allowed; lower targets.slurm.time"),
    ("GrpCpu", "the CPUs of your group are in use"),
    ("GrpGRES", "the GPUs of your group are in use"),
    ("GrpNode", "the nodes of your group are in use"),
    ("GrpMem", "the memory of your group is in use"),
    ("GrpJobs", "as many jobs of your group run as may run at once"),
    ("MaxCpu", "it asks for more CPUs than allowed, or they are in use"),
    ("MaxGRES", "it asks for more GPUs than allowed, or they are in use"),
    ("MaxNode", "it asks for more nodes than allowed, or they are in use"),
    ("MaxMem", "it asks for more memory than allowed, or it is in use"),
    ("MinCpu", "it asks for fewer CPUs than its QOS takes"),
    ("MinGRES", "it asks for fewer GPUs than its QOS takes"),
    ("Min", "it asks for less than its QOS takes"),
    ("Max", "a limit of your account or QOS is reached"),
    ("Grp", "what your group may use is in use"),
)
_STATES = {
    "PENDING": "waits in the queue",
    "CONFIGURING": "its nodes are being prepared",
    "RUNNING": "runs",
    "COMPLETING": "is ending",
    "SUSPENDED": "is suspended",
    "COMPLETED": "has ended",
    "CANCELLED": "was cancelled",
    "FAILED": "has failed",
    "TIMEOUT": "was ended at its time limit",
    "NODE_FAIL": "was ended because a node failed",
    "OUT_OF_MEMORY": "was ended because it used more memory than it had",
    "PREEMPTED": "was preempted by a job that goes first",
    "BOOT_FAIL": "its nodes could not be booted",
    "DEADLINE": "was ended at its deadline",
    "REQUEUED": "was put back into the queue",
    "REQUEUE_HOLD": "was put back into the queue and is held",
}

_PLAIN = frozenset({"CANCELLED", "COMPLETED", "COMPLETING", "PREEMPTED"})
"""States with which Slurm leaves the reason why the job had waited."""


def explain(job: Job, now_t: float | None = None) -> str:
    """Return a job's state and the reason for it as the end of a sentence.

    Args:
        job: As Slurm knows it.
        now_t: Unix time in seconds; default: now.
    """
    now_t = time.time() if now_t is None else now_t
    text = _STATES.get(job.state, f"is {job.state}")
    if job.state == "RUNNING":
        where = f" on {job.nodes}" if job.nodes else ""
        return f"{text}{where}{_left(job, now_t)}"
    why = "" if job.state in _PLAIN else reason(job)
    if why:
        text = f"{text}: {why}"
    if job.state == "PENDING" and job.start_t is not None and job.start_t > now_t:
        text = f"{text}; expected to begin in {_shown(job.start_t - now_t)}"
    if job.state == "FAILED" and job.exit_code is not None:
        text = f"{text} (exit code {job.exit_code.partition(':')[0]})"
    return text


def reason(job: Job) -> str:
    """Return the reason for a job's state in plain words; one that is not known as it is."""
    word = job.reason.strip("()").partition(",")[0]
    if word in _REASONS:
        return _REASONS[word].format(id=job.id)
    for part, text in _LIMITS:
        if word.startswith(("QOS", "Assoc")) and part in word:
            return f"{text} ({word})"
    return job.reason


def _left(job: Job, now_t: float) -> str:
    if job.end_t is None or job.end_t <= now_t:
        return ""
    return f", {_shown(job.end_t - now_t)} before its limit"


def _shown(seconds: float) -> str:
    """Return a time as a person says it.

    >>> _shown(50), _shown(600), _shown(7300), _shown(200000)
    ('50 s', '10 min', '2.0 h', '2.3 days')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
