"""Suggestions that are prepared ahead: in order, never waited for, the same after a crash."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from raytune_hpo.chaos.checked_suggestions import check_suggestions
from raytune_hpo.engine import Engine
from raytune_hpo.errors import SearcherError
from raytune_hpo.experiment import Experiment
from raytune_hpo.journal import Record
from raytune_hpo.schedulers.base import Decision
from raytune_hpo.simulate import Simulation
from raytune_hpo.space import Float
from raytune_hpo.state import RunState
from raytune_hpo.suggestions import NOT_READY, IdleTime, InBackground, Suggestions, requested_early
from raytune_hpo.trial import Config, Outcome, TrialState
from raytune_hpo.view.summary import summary

Steps = Iterator[tuple[float, dict[str, Any]]]
DONE = Outcome(TrialState.COMPLETED, (0.5,))
PATIENCE = 10_000
"""Looks for a suggestion, each of some milliseconds, before a test fails."""


class Hashing:
    """A searcher whose suggestion is a hash of all that it was told, in order."""

    def __init__(self) -> None:
        self.notes: list[tuple[Any, ...]] = []

    def suggest(self, trial: int) -> Config | None:
        text = repr([trial, self.notes]).encode()
        config = {"x": int.from_bytes(hashlib.sha256(text).digest()[:6]) / 2**48}
        self.notes.append(("pending", trial, config))
        return config

    def adopt(self, trial: int, config: Config) -> None:
        self.notes.append(("pending", trial, dict(config)))

    def report(
        self, trial: int, step: int, values: tuple[float, ...], violations: tuple[float, ...] = ()
    ) -> None:
        self.notes.append(("report", trial, step, values, violations))

    def observe(self, trial: int, outcome: Outcome) -> None:
        self.notes.append(("observe", trial, outcome))

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class Gated(Hashing):
    """Needs a permit for each suggestion."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = threading.Semaphore(0)
        self.begun = threading.Event()

    def suggest(self, trial: int) -> Config | None:
        self.begun.set()
        assert self.permits.acquire(timeout=60)
        return super().suggest(trial)


class Failing(Hashing):
    """Fails at one trial."""

    def __init__(self, trial: int, error: BaseException) -> None:
        super().__init__()
        self._trial, self._error = trial, error

    def suggest(self, trial: int) -> Config | None:
        if trial == self._trial:
            raise self._error
        return super().suggest(trial)


def experiment(**fields: Any) -> Experiment:
    fields = {"trials": 9, "parallel": 3, "metric": "loss", "search": {"seed": 1}, **fields}
    return Experiment.from_python(run="noop", parameters={"x": Float(0.0, 1.0)}, **fields)


def uneven(config: Config) -> Steps:
    """Take a time that follows from the config; some trials fail."""
    for step in (1, 2):
        yield 0.5 + config["x"], {"loss": config["x"] / step}
    if config["x"] > 0.8:
        raise ValueError(f"{config['x']} is too much, says {hash(str(config))}")


def simulated(spec: Experiment, records: Sequence[Record] = (), **more: Any) -> list[Record]:
    """Return the whole journal of a run with ``Hashing``."""
    simulation = Simulation(spec, uneven, records=records, searcher=Hashing(), **more)
    simulation.run()
    return simulation.journal.records


def configs(records: Sequence[Record]) -> dict[int, Config]:
    return {r["trial"]: r["config"] for r in records if r["type"] == "trial"}


def taken(suggestions: Suggestions, trial: int) -> Config | None:
    """Return a suggestion as soon as it is ready."""
    for _ in range(PATIENCE):
        config = suggestions.take(trial)
        if config is not NOT_READY:
            return config
    raise AssertionError(f"no suggestion for trial {trial}")


# The port


@pytest.mark.parametrize("form", [Suggestions, InBackground])
def test_the_searcher_gets_all_calls_in_order(form: Callable[[Hashing], Suggestions]) -> None:
    searcher = Hashing()
    suggestions = form(searcher)
    suggestions.adopt(0, {"x": 0.5})
    suggestions.report(0, 1, (0.25,), (1.0,))
    suggestions.request(1)
    suggestions.observe(0, DONE)
    suggestions.request(2)
    made = taken(suggestions, 1), taken(suggestions, 2)
    suggestions.close()
    assert searcher.notes == [
        ("pending", 0, {"x": 0.5}),
        ("report", 0, 1, (0.25,), (1.0,)),
        ("pending", 1, made[0]),
        ("observe", 0, DONE),
        ("pending", 2, made[1]),
    ]


def test_a_suggestion_is_not_ready_until_the_searcher_has_it() -> None:
    searcher = Gated()
    suggestions = InBackground(searcher)
    suggestions.request(0)
    assert suggestions.take(0) is NOT_READY
    suggestions.observe(7, DONE)
    assert suggestions.take(0) is NOT_READY
    assert searcher.notes == []
    searcher.permits.release()
    assert taken(suggestions, 0) is not None
    suggestions.close()


def test_a_space_that_is_exhausted() -> None:
    searcher = Hashing()
    searcher.suggest = lambda trial: None  # type: ignore[method-assign]
    suggestions = InBackground(searcher)
    suggestions.request(0)
    assert taken(suggestions, 0) is None
    suggestions.close()


@pytest.mark.parametrize("error", [ZeroDivisionError("of the model"), SystemExit("of the model")])
def test_an_error_comes_out_where_its_suggestion_is_taken(
    error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    suggestions = InBackground(Failing(1, error))
    suggestions.request(0)
    suggestions.request(1)
    suggestions.observe(0, DONE)
    assert taken(suggestions, 0) is not None
    with pytest.raises(
        SearcherError, match=f"failed: {type(error).__name__}: of the model"
    ) as info:
        taken(suggestions, 1)
    assert info.value.__cause__ is error
    printed = capfd.readouterr().err
    assert "Traceback" in printed
    assert "raise self._error" in printed
    with pytest.raises(SearcherError):
        suggestions.take(2)
    suggestions.close()


def test_an_error_on_being_told_comes_out_too(capfd: pytest.CaptureFixture[str]) -> None:
    suggestions = InBackground(object())  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        suggestions.adopt(0, {"x": 0.5})
    searcher = Hashing()
    searcher.notes = None  # type: ignore[assignment]
    suggestions = InBackground(searcher)
    suggestions.observe(0, DONE)
    suggestions.request(1)
    with pytest.raises(SearcherError, match="AttributeError"):
        taken(suggestions, 1)
    assert "in observe" in capfd.readouterr().err


def test_closing_waits_for_no_call_into_c() -> None:
    searcher = Gated()
    suggestions = InBackground(searcher)
    suggestions.request(0)
    assert suggestions.take(0) is NOT_READY
    assert searcher.begun.wait(60)
    suggestions.observe(7, DONE)
    suggestions.close()
    assert suggestions._thread.is_alive()
    searcher.permits.release()
    suggestions._thread.join(60)
    assert not suggestions._thread.is_alive()
    assert searcher.notes == [], "what was not begun is dropped"


def test_closing_ends_what_a_searcher_is_at(capfd: pytest.CaptureFixture[str]) -> None:
    searcher = Hashing()
    begun = threading.Event()

    def think(trial: int) -> Config | None:
        begun.set()
        while True:
            pass

    searcher.suggest = think  # type: ignore[method-assign]
    suggestions = InBackground(searcher)
    suggestions.request(0)
    assert begun.wait(60)
    suggestions.close()
    suggestions._thread.join(60)
    assert not suggestions._thread.is_alive()
    suggestions.close()
    assert capfd.readouterr().err == ""


THINKS_IN_CPP = """
import sys, threading
import numpy as np
from scipy.spatial.distance import cdist
from raytune_hpo import suggestions as module
from raytune_hpo.suggestions import InBackground

module.CLOSE_S = 60.0
begun, points = threading.Event(), np.zeros((100, 3))

class Thinks:
    def suggest(self, trial):
        while True:
            cdist(points, points)
            begun.set()

suggestions = InBackground(Thinks())
suggestions.request(0)
begun.wait(60)
suggestions.close()
sys.exit(7)
"""


def test_a_driver_ends_well_while_its_searcher_thinks() -> None:
    """Without the end of its thread, SciPy's C++ code aborts the process."""
    command = [sys.executable, "-c", THINKS_IN_CPP]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (7, "")


def test_which_suggestions_were_requested_early() -> None:
    def session(parallel: int) -> Record:
        return {"type": "session", "parallel": parallel}

    def trial(number: int, origin: str = "search") -> Record:
        return {"type": "trial", "trial": number, "config": {"x": number}, "origin": origin}

    records = [session(2), trial(0), trial(1), session(1), trial(2), session(3), trial(3)]
    assert requested_early([*records, trial(4, "initial")]) == {1: {"x": 1}, 3: {"x": 3}}


def test_idle_time_is_that_of_all_workers() -> None:
    idle = IdleTime()
    assert idle.take(5.0) == 0.0
    idle.note(6.0, 3)
    idle.note(7.0, 2)
    idle.note(9.0, 0)
    assert idle.take(20.0) == 7.0
    assert idle.take(30.0) == 0.0


# What the engine makes of it


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_searcher_hears_the_same_in_a_resumed_run_wherever_it_was_cut(parallel: int) -> None:
    spec = experiment(parallel=parallel)
    searcher = Hashing()
    simulation = Simulation(spec, uneven, searcher=searcher)
    append = simulation.journal.append
    # The first two records were there before anything was told.
    heard: list[list[tuple[Any, ...]]] = [[], []]

    def listen(type: str, **fields: Any) -> Record:
        heard.append(list(searcher.notes))
        return append(type, **fields)

    simulation.journal.append = listen  # type: ignore[method-assign]
    simulation.run()
    records = simulation.journal.records
    # After the last record of all nothing more is heard.
    for cut, notes in enumerate(heard[3:], 3):
        again = Hashing()
        resumed = Simulation(spec, uneven, records=records[:cut], searcher=again)
        # One at a time, the suggestion is made just before its record.
        needed = 1 if parallel == 1 and records[cut]["type"] == "trial" else 0
        assert again.notes == notes[: len(notes) - needed], f"cut at {cut}"
        resumed.run()
        assert resumed.engine.finished


@pytest.mark.parametrize("fields", [{}, {"parallel": 1}, {"retries": 1, "max_failed": 3}])
@pytest.mark.parametrize("given", [False, True])
def test_no_cut_changes_a_suggestion(fields: dict[str, Any], given: bool) -> None:
    """Every later config is that of a run that saw the same outcomes in the same order."""
    if given:
        search = {"seed": 1, "initial": [{"x": 0.25}, {"x": 0.5}]}
        fields = {**fields, "baseline": {"x": 0.75}, "search": search}
    spec = experiment(**fields)
    straight = simulated(spec)
    assert check_suggestions(straight, Hashing()) == []
    for cut in range(2, len(straight)):
        resumed = simulated(spec, straight[:cut])
        assert check_suggestions(resumed, Hashing()) == [], f"cut at {cut}"
        again = simulated(spec, resumed[: cut + (len(resumed) - cut) // 2])
        assert check_suggestions(again, Hashing()) == [], f"cut at {cut} and later"


def test_another_number_of_trials_at_once_after_a_resume_does_no_harm() -> None:
    straight = simulated(experiment())
    for cut in range(2, len(straight), 2):
        for parallel in (1, 2, 5):
            resumed = simulated(experiment(parallel=parallel), straight[:cut])
            assert check_suggestions(resumed, Hashing()) == [], f"cut at {cut}, then {parallel}"
            assert len(configs(resumed)) == 9
            last = simulated(experiment(trials=12), resumed)
            assert check_suggestions(last, Hashing()) == [], f"cut at {cut}, then {parallel}"


class AsksWhenNeeded(Engine):
    """Requests every suggestion as late as it can."""

    def _request_early(self) -> None:
        pass


class AsksAfterTheJournal(Engine):
    """Requests the next suggestion of a resumed run when all has been replayed."""

    def _replay(self, records: Sequence[Record]) -> Any:
        request, self._request_early = self._request_early, lambda: None  # type: ignore[method-assign]
        last = super()._replay(records)
        self._request_early = request  # type: ignore[method-assign]
        return last


@pytest.mark.parametrize("mutant", [AsksWhenNeeded, AsksAfterTheJournal])
def test_the_check_finds_an_engine_that_asks_elsewhere(
    mutant: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = simulated(experiment())
    monkeypatch.setattr("raytune_hpo.simulate.Engine", mutant)
    cuts = range(2, len(straight))
    resumed = [simulated(experiment(), straight[:cut]) for cut in cuts]
    assert any(check_suggestions(records, Hashing()) for records in resumed)


def test_the_check_finds_a_config_that_is_not_the_searchers() -> None:
    records = simulated(experiment())
    at = [r["n"] for r in records if r["type"] == "trial"][5]
    records[at] = {**records[at], "config": {"x": 0.123}}
    assert [text.partition(" has")[0] for text in check_suggestions(records, Hashing())] == [
        "G5: trial 5"
    ]


def test_a_raised_budget_goes_on_as_if_it_had_been_so_from_the_start() -> None:
    few, many = simulated(experiment(trials=6)), simulated(experiment(trials=9))
    assert configs(few) == {trial: many_ for trial, many_ in configs(many).items() if trial < 6}
    raised = simulated(experiment(trials=9), few)
    assert configs(raised)[6] == configs(many)[6]
    assert check_suggestions(raised, Hashing()) == []


def test_nothing_is_suggested_beyond_the_budget() -> None:
    searcher = Hashing()
    Simulation(experiment(trials=5), uneven, searcher=searcher).run()
    assert {note[1] for note in searcher.notes} == set(range(5))
    over = Hashing()
    records = simulated(experiment(trials=5))
    Simulation(experiment(trials=5), uneven, records=records, searcher=over)
    assert {note[1] for note in over.notes} == set(range(5))


# A slow searcher


def quick(config: Config) -> Steps:
    yield 1.0, {"loss": config["x"]}


def gated(**fields: Any) -> tuple[Simulation, Gated]:
    searcher = Gated()
    spec = experiment(**fields)
    return Simulation(spec, quick, searcher=searcher, suggestions=InBackground), searcher


def run_until_started(simulation: Simulation, trials: int) -> None:
    for _ in range(PATIENCE):
        simulation.run(events=0)
        if len(simulation.engine.state.trials) == trials:
            return
    raise AssertionError(f"no {trials} trials start")


def test_reports_are_taken_while_a_slow_searcher_thinks() -> None:
    simulation, searcher = gated(parallel=2)
    engine = simulation.engine
    searcher.permits.release()
    run_until_started(simulation, 1)
    assert engine.next_start() is None
    assert engine.on_report(0, 1, {"loss": 0.5}) is Decision.CONTINUE
    engine.on_end(0, 1)
    assert engine.next_start() is None
    assert engine.state.trials[0].state is TrialState.COMPLETED
    assert not engine.finished, "a suggestion is to come"
    searcher.permits.release()
    run_until_started(simulation, 2)
    engine.close()


def test_the_wait_for_a_suggestion_is_measured() -> None:
    simulation, searcher = gated(parallel=2, trials=3)
    engine, clock = simulation.engine, simulation.clock
    searcher.permits.release()
    run_until_started(simulation, 1)
    engine.on_report(0, 1, {"loss": 0.5})
    clock.now_s = 10.0
    assert engine.next_start() is None
    clock.now_s = 12.5
    engine.on_end(0, 1)
    assert engine.next_start() is None
    clock.now_s = 14.0
    searcher.permits.release()
    run_until_started(simulation, 2)
    clock.now_s = 20.0
    assert [t.waited_s for t in engine.state.trials.values()][1] == 2.5 + 2 * 1.5
    engine.close()


def test_nobody_waits_in_a_simulation() -> None:
    records = simulated(experiment())
    assert [r["waited_s"] for r in records if r["type"] == "trial"] == [0.0] * 9


def test_old_journals_have_no_waits() -> None:
    records = simulated(experiment())
    old = [{k: v for k, v in record.items() if k != "waited_s"} for record in records]
    assert sum(trial.waited_s for trial in RunState.replay(old).trials.values()) == 0.0
    assert configs(simulated(experiment(), old[:40])) != {}


@pytest.mark.parametrize(("part", "said"), [(0.009, []), (1.0, ["50%"]), (0.02, ["2%"])])
def test_a_notable_wait_is_in_the_summary(part: float, said: list[str]) -> None:
    records = simulated(experiment(trials=5))
    spent_s = sum(trial.duration_s for trial in RunState.replay(records).trials.values())
    first = next(r["n"] for r in records if r["type"] == "trial")
    records[first] = {**records[first], "waited_s": part * spent_s}
    lines = summary(RunState.replay(records), Path("run")).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  waited ")] == said


def test_whatever_the_pace_of_the_searcher_its_suggestions_are_those_of_the_journal() -> None:
    journals = []
    for pace in (1, 2, 5):
        simulation, searcher = gated(trials=12)
        for event in range(PATIENCE):
            if event % pace == 0:
                searcher.permits.release()
            if simulation.run(events=1).finish is not None:
                break
        simulation.engine.close()
        records = simulation.journal.records
        assert records[-1]["reason"] == "trials"
        assert check_suggestions(records, Hashing()) == []
        journals.append([(r["type"], r.get("trial")) for r in records])
    assert journals[0] != journals[2], "they were to take different ways"


def test_a_searcher_that_fails_ends_the_run_and_what_runs_can_go_on() -> None:
    spec = experiment()
    failing = Failing(5, ZeroDivisionError("of the model"))
    simulation = Simulation(spec, quick, searcher=failing, suggestions=InBackground)
    for _ in range(PATIENCE):
        if simulation.run(events=1).finish is not None:
            break
    state = simulation.engine.state
    assert state.finish is not None
    assert (state.finish.reason, state.finish.message) == (
        "searcher",
        "the searcher failed: ZeroDivisionError: of the model",
    )
    assert not [t for t in state.trials.values() if t.state is TrialState.RUNNING]
    assert "raytune-hpo logs run" in summary(state, Path("run"))
    records = simulated(spec, simulation.journal.records)
    assert records[-1]["reason"] == "trials"
    assert check_suggestions(records, Hashing()) == []
