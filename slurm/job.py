"""The last command of a batch script: carries a run through the end of its Slurm job.

It runs the driver and looks after it: passes Slurm's signals on, and when the driver has ended
decides what follows: the end, another try in the same job, the same job once more (requeue), or a
new job where jobs may not be requeued.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

from raytune_hpo import exits, journal
from raytune_hpo.errors import InfrastructureError, JournalError
from raytune_hpo.lock import SUCCESSOR_ENV
from raytune_hpo.slurm import commands
from raytune_hpo.slurm.allocation import ELASTIC_ENV, RUN_ENV
from raytune_hpo.slurm.commands import ControllerAwayError
from raytune_hpo.slurm.state import SCRIPT_FILE, State, chain, read_state, write_state

FAILURES_MOST = 3
"""Starts in a row without a finished trial or a new checkpoint after which it is given up."""
AGAIN_WAIT_S = 5.0
GRACE_MOST_S = 600.0
"""Slurm gives a preempted job at most so long before it kills it (GraceTime)."""
GRACE_LOOK_S = 5.0
REQUEUE_WAIT_S = 60.0
"""Slurm ends a job that it has put back into the queue within so long."""
ASK_WITHIN_S = 60.0
REQUEUE_WITHIN_S = 1800.0
"""So long a controller that does not answer is asked again; the job may have ended by then."""
_PR_SET_PDEATHSIG = 1


class Next(StrEnum):
    """What follows the end of a driver."""

    END = "end"
    AGAIN = "again"
    REQUEUE = "requeue"


@dataclass(frozen=True)
class Ending:
    """How a driver ended.

    Attributes:
        code: Its exit code; negative for a signal.
        reason: Of the run's end as the journal has it, or None when the driver wrote none.
        message: That goes with it.
        limit: Slurm has said that the job's time is nearly over.
        term: Slurm has told the job to end.
        superseded: Another job has taken the run over.
        failures: Starts in a row, this one included, without progress.
    """

    code: int
    reason: str | None = None
    message: str = ""
    limit: bool = False
    term: bool = False
    superseded: bool = False
    failures: int = 0


@dataclass(frozen=True)
class Verdict:
    """What follows, the state that is written down, why, and this program's exit code."""

    next: Next
    state: str
    message: str
    code: int = 0


def decide(ending: Ending, restarts: int, max_restarts: int) -> Verdict:
    """Return what follows the end of a driver.

    Args:
        ending: How it ended.
        restarts: How many times the job was started again so far.
        max_restarts: So many times at the most.
    """
    if ending.superseded:
        text = "another job has taken this run over; this one ends"
        return Verdict(Next.END, "superseded", text)
    if ending.reason == "stopped":
        return Verdict(Next.END, "stopped", ending.message)
    if ending.term and not ending.limit:
        # Slurm requeues a preempted job by itself; one that was cancelled is to stay so.
        text = "Slurm ended the job (cancelled or preempted)"
        return Verdict(Next.END, "terminated", text, exits.INTERRUPTED)
    if ending.reason == "interrupted" or (ending.limit and ending.code != 0):
        return _once_more(ending, restarts, max_restarts)
    # An exit code of 1 is also that of an exception that nobody caught.
    ended = ending.code == exits.NOTHING_SUCCEEDED and ending.reason is not None
    if ended or ending.code in (exits.OK, exits.SPEC):
        return Verdict(Next.END, "finished", ending.message, ending.code)
    why = ending.message or f"the driver ended with exit code {ending.code}"
    if ending.failures >= FAILURES_MOST:
        text = f"given up after {ending.failures} starts in a row without progress: {why}"
        return Verdict(Next.END, "failed", text, exits.INFRASTRUCTURE)
    return Verdict(Next.AGAIN, "running", f"{why}; trying again")


def _once_more(ending: Ending, restarts: int, max_restarts: int) -> Verdict:
    if restarts >= max_restarts:
        text = f"the job was started again {restarts} times, as often as max_restarts allows"
        return Verdict(Next.END, "failed", text, exits.INFRASTRUCTURE)
    if ending.failures >= FAILURES_MOST:
        text = (
            f"given up: {ending.failures} jobs in a row finished no trial and saved no checkpoint "
            "before their time was over; raise targets.slurm.time, or have trials save checkpoints"
        )
        return Verdict(Next.END, "failed", text, exits.INFRASTRUCTURE)
    return Verdict(Next.REQUEUE, "requeued", ending.message or "the job's time is nearly over")


@dataclass(frozen=True)
class Progress:
    """How far the journal is: finished trials, checkpoints, and how the last session ended."""

    finished: int = 0
    checkpoints: int = 0
    records: int = 0
    reason: str | None = None
    message: str = ""


def progress(run_dir: Path) -> Progress:
    """Return how far a run is."""
    if not journal.exists(run_dir):
        return Progress()
    try:
        records = journal.read(run_dir)
    except JournalError:
        # Damaged: the driver says so itself.
        return Progress()
    last = records[-1] if records else {}
    over = last.get("type") == "finish"
    return Progress(
        finished=sum(
            r["type"] == "end" and r["state"] not in ("pending", "paused") for r in records
        ),
        checkpoints=len({r["checkpoint"] for r in records if r.get("checkpoint")}),
        records=len(records),
        reason=last["reason"] if over else None,
        message=last["message"] if over else "",
    )


class Supervisor:
    """Runs the driver of one run in this job.

    Args:
        options: Of the command line.
        environ: Slurm's variables.
    """

    def __init__(self, options: argparse.Namespace, environ: Mapping[str, str]) -> None:
        self.options = options
        self.run_dir: Path = options.run_dir
        self.job = environ["SLURM_JOB_ID"]
        self.restart = int(environ.get("SLURM_RESTART_COUNT", 0))
        self.limit = self.term = False
        self.driver: subprocess.Popen[bytes] | None = None
        (self.run_dir / "slurm").mkdir(parents=True, exist_ok=True)
        before = read_state(self.run_dir)
        self.entitled = before is not None and self.job in (before.job, before.next_job)
        known = before if self.entitled and before is not None else State("", 0)
        self.tried = False
        self.other = None if before is None or self.entitled else before
        self.state = State(
            self.job,
            self.restart,
            nodes=commands.hostnames(environ["SLURM_JOB_NODELIST"]),
            output=_output(self.job),
            starts=known.starts + 1 if self.entitled else 0,
            failures=known.failures,
            owner=uuid.uuid4().hex,
        )

    def run(self) -> int:
        """Run the driver until there is nothing more to do in this job; return the exit code."""
        if self.other is not None and self._is_there(self.other.job):
            self._say(
                f"job {self.other.job} carries this run already; wait for it, or cancel it first: "
                f"scancel {self.other.job}"
            )
            return exits.INFRASTRUCTURE
        signal.signal(signal.SIGUSR1, self._on_limit)
        signal.signal(signal.SIGTERM, self._on_term)
        script = self.run_dir / "slurm" / SCRIPT_FILE
        if not script.exists() or self.options.script.read_bytes() != script.read_bytes():
            shutil.copyfile(self.options.script, script)
        self._write()
        while True:
            verdict = self._once()
            self._say(verdict.message)
            self.state = replace(self.state, state=verdict.state, message=verdict.message)
            if verdict.next is not Next.AGAIN:
                return self._follow_up(verdict)
            self._write()
            self.tried = True
            time.sleep(AGAIN_WAIT_S)

    def _once(self) -> Verdict:
        before = progress(self.run_dir)
        words = [sys.executable, "-m", "raytune_hpo", *self._arguments(before)]
        # Of processes whose parent is gone, Slurm forgets some, with proctrack/linuxproc.
        self.driver = subprocess.Popen(words, env=self._environment(), preexec_fn=_with_parent())
        if self.limit or self.term:
            self._pass_on()
        code = self._wait()
        after = progress(self.run_dir)
        moved = (after.finished, after.checkpoints) != (before.finished, before.checkpoints)
        self.state.failures = 0 if moved else self.state.failures + 1
        new = after.records > before.records
        ending = Ending(
            code=code,
            reason=after.reason if new else None,
            message=after.message if new else "",
            limit=self.limit,
            term=self.term,
            superseded=self._superseded(),
            failures=self.state.failures,
        )
        return decide(ending, self.state.starts, self.options.max_restarts)

    def _arguments(self, before: Progress) -> Sequence[str]:
        """Return the driver's command: the given one, or after a restart what the journal says."""
        given: list[str] = self.options.arguments
        if (self.entitled or self.tried) and before.records and given[0] != "resume":
            return ["resume", str(self.run_dir), "--on", "local"]
        return given

    def _environment(self) -> dict[str, str]:
        more = {"PYTHONUNBUFFERED": "1", RUN_ENV: str(self.run_dir)}
        if self.options.elastic:
            more[ELASTIC_ENV] = "1"
        if self.entitled and not self.tried:
            more[SUCCESSOR_ENV] = "1"
        return {**os.environ, **more}

    def _wait(self) -> int:
        """Wait for the driver's end, and return its exit code."""
        assert self.driver is not None
        return self.driver.wait()

    def _on_limit(self, number: int, frame: FrameType | None) -> None:
        first, self.limit = not self.limit, True
        if first:
            self._pass_on()

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        first, self.term = not self.term, True
        if first:
            self._pass_on()

    def _pass_on(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.send_signal(signal.SIGTERM if self.term else signal.SIGUSR1)

    def _superseded(self) -> bool:
        now = read_state(self.run_dir)
        return now is not None and now.owner != self.state.owner

    def _follow_up(self, verdict: Verdict) -> int:
        if verdict.state == "superseded":
            return verdict.code
        if verdict.next is Next.END:
            self._write()
            if verdict.state == "terminated":
                self._wait_to_be_killed()
            return verdict.code
        if not self.options.no_requeue:
            self._write()
            try:
                # The last thing: Slurm ends this process at once.
                commands.patiently(lambda: commands.requeue(self.job), REQUEUE_WITHIN_S)
            except InfrastructureError as error:
                self._say(f"this job may not be requeued ({error}); a new one takes over")
            else:
                deadline = time.monotonic() + REQUEUE_WAIT_S
                while not self.term and time.monotonic() < deadline:
                    time.sleep(0.2)
                return exits.OK
        return self._chain()

    def _wait_to_be_killed(self) -> None:
        """Let Slurm end a job that it preempts: it requeues no job that ended by itself."""
        deadline = time.monotonic() + GRACE_MOST_S
        while time.monotonic() < deadline:
            # A controller that is away ends nothing either.
            with contextlib.suppress(ControllerAwayError):
                found = commands.detail(self.job)
                if found is None or found.state != "RUNNING":
                    return
            time.sleep(GRACE_LOOK_S)

    def _is_there(self, job: str) -> bool:
        """Return whether a job runs, or is just ending; so it does while Slurm does not say."""
        try:
            found = commands.patiently(lambda: commands.detail(job), ASK_WITHIN_S)
        except ControllerAwayError as error:
            self._say(str(error))
            return True
        return found is not None and found.state in ("RUNNING", "COMPLETING", "SUSPENDED")

    def _chain(self) -> int:
        """Submit a job that goes on when this one has ended."""
        try:
            chain(self.run_dir, self.state)
        except InfrastructureError as error:
            self.state.state = "failed"
            self.state.message = (
                f"neither this job could be requeued nor a new one submitted: {error}. "
                f"Go on from the login node: raytune-hpo resume {self.run_dir}"
            )
            self._say(self.state.message)
            self._write()
            return exits.INFRASTRUCTURE
        self._say(self.state.message)
        return exits.OK

    def _write(self) -> None:
        write_state(self.run_dir, self.state)

    def _say(self, text: str) -> None:
        if text:
            print(f"raytune-hpo: job {self.job}: {text}", file=sys.stderr, flush=True)


def _with_parent() -> Callable[[], None]:
    """Return what a child calls to be told to end (SIGTERM) when this process is gone."""
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def be_told() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return be_told


def _output(job: str) -> str | None:
    """Return the job's output file as Slurm knows it, or None when it does not say."""
    try:
        found = commands.patiently(lambda: commands.detail(job), ASK_WITHIN_S)
    except ControllerAwayError:
        return None
    return None if found is None or found.stdout is None else str(found.stdout)


def parser() -> argparse.ArgumentParser:
    """Return the reader of the command line."""
    made = argparse.ArgumentParser(prog="python -m raytune_hpo.slurm.job", description=__doc__)
    made.add_argument("--run-dir", type=Path, required=True)
    made.add_argument("--script", type=Path, required=True, help="this batch script")
    made.add_argument("--elastic", action="store_true", help="trials run in worker jobs")
    made.add_argument("--no-requeue", action="store_true", help="submit a new job instead")
    made.add_argument("--max-restarts", type=int, default=50)
    made.add_argument("arguments", nargs="+", help="of raytune-hpo")
    return made


def main(words: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Any:
    """Look after a run to the end of this job."""
    environ = os.environ if environ is None else environ
    options = parser().parse_args(words)
    if "SLURM_JOB_ID" not in environ:
        raise SystemExit("this is no Slurm job; submit the script with: sbatch SCRIPT")
    try:
        return Supervisor(options, environ).run()
    except InfrastructureError as error:
        print(f"raytune-hpo: job {environ['SLURM_JOB_ID']}: {error}", file=sys.stderr)
        return exits.INFRASTRUCTURE


if __name__ == "__main__":
    sys.exit(main())
