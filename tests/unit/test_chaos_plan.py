"""Plans of faults, and when and whom they strike."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from raytune_hpo.chaos import digits
from raytune_hpo.chaos.command import _changes, chaos, plan_of
from raytune_hpo.chaos.plan import Every, Fault, FaultKind, Strikes, share
from raytune_hpo.cli import cli
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment

RUNNING = tuple(range(10, 20))


def options(*words: str) -> dict[str, object]:
    """Return what the command line makes of some words."""
    return dict(chaos.make_context("chaos", list(words)).params)


def fault(kind: FaultKind = FaultKind.FAIL, every: str = "10s", **more: float) -> Fault:
    """Return a fault of half of the running trials."""
    return Fault(kind, Every.parse(every), **{"share": 0.5, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("20s", Every(20)), ("20", Every(20)), ("0.5s", Every(0.5)), ("36t", Every(36, True))],
)
def test_intervals(text: str, expected: Every) -> None:
    assert Every.parse(text) == expected


@pytest.mark.parametrize("text", ["", "0s", "-1s", "soon", "infs", "nan", "t", "36ts"])
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(SpecError, match="no interval"):
        Every.parse(text)


@pytest.mark.parametrize(("text", "expected"), [("50%", 0.5), ("0.25", 0.25), ("0%", 0), ("1", 1)])
def test_shares(text: str, expected: float) -> None:
    assert share(text) == expected


@pytest.mark.parametrize("text", ["101%", "-1%", "half", "nan", "%"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(SpecError, match="no share"):
        share(text)


def test_the_command_line_makes_a_plan() -> None:
    words = ("--fail", "50%", "--kill", "5%", "--kill-driver", "2", "--disk-full", "--every", "20s")
    plan = plan_of(options(*words, "--for", "3"))
    assert plan == [
        Fault(FaultKind.FAIL, Every(20), share=0.5, for_s=3),
        Fault(FaultKind.KILL, Every(20), share=0.05, for_s=3),
        Fault(FaultKind.KILL_DRIVER, Every(20), for_s=3, times=2),
        Fault(FaultKind.DISK_FULL, Every(20), for_s=3, times=1),
    ]


def test_without_faults_there_is_a_plan_all_the_same() -> None:
    kinds = [fault.kind for fault in plan_of(options())]
    assert kinds == [FaultKind.KILL, FaultKind.KILL_DRIVER]


def test_every_kind_of_fault_has_an_option() -> None:
    assert {kind.value.replace("-", "_") for kind in FaultKind} <= options().keys()


def test_the_same_seed_strikes_the_same_trials() -> None:
    plan = [fault(), fault(FaultKind.KILL)]
    first, again, other = (Strikes(plan, seed) for seed in (7, 7, 8))
    moments = [10.0 * number for number in range(1, 6)]
    course = [first.due(now_s, 0, RUNNING) for now_s in moments]
    assert course == [again.due(now_s, 0, tuple(reversed(RUNNING))) for now_s in moments]
    assert course != [other.due(now_s, 0, RUNNING) for now_s in moments]


def test_a_share_of_one_hits_all_and_none_hits_none() -> None:
    strikes = Strikes([fault(share=1.0), fault(share=0.0)], 0)
    assert [strike.trials for strike in strikes.due(10, 0, RUNNING)] == [RUNNING, ()]


@pytest.mark.parametrize(
    ("part", "running", "hit"), [(0.05, 10, 1), (0.5, 10, 5), (0.5, 3, 2), (0.07, 100, 7)]
)
def test_a_share_is_rounded_up(part: float, running: int, hit: int) -> None:
    (strike,) = Strikes([fault(share=part)], 3).due(10, 0, range(running))
    assert len(set(strike.trials)) == hit


def test_strikes_come_at_their_interval() -> None:
    strikes = Strikes([fault(every="10s")], 0)
    struck = [now_s for now_s in range(100) if strikes.due(now_s, 0, RUNNING)]
    assert struck == [10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_strikes_come_by_finished_trials() -> None:
    strikes = Strikes([fault(every="36t")], 0)
    struck = [finished for finished in range(150) if strikes.due(1e6, finished, RUNNING)]
    assert struck == [36, 72, 108, 144]


def test_a_strike_waits_for_a_running_trial_and_does_not_pile_up() -> None:
    strikes = Strikes([fault(every="10s")], 0)
    assert strikes.due(35, 0, ()) == []
    assert len(strikes.due(36, 0, RUNNING)) == 1
    assert strikes.due(37, 0, RUNNING) == []
    assert len(strikes.due(40, 0, RUNNING)) == 1


def test_what_is_counted_comes_so_often_however_late() -> None:
    strikes = Strikes([fault(FaultKind.KILL_DRIVER, times=2)], 0)
    moments = (25, 26, 27, 1000)
    assert [len(strikes.due(now_s, 0, RUNNING)) for now_s in moments] == [1, 1, 0, 0]


def test_what_stops_the_whole_run_takes_turns() -> None:
    plan = [fault(kind, times=2) for kind in (FaultKind.KILL_DRIVER, FaultKind.DISK_FULL)]
    strikes = Strikes([fault(), *plan], 0)
    found = [
        (now_s, strike.fault.kind)
        for now_s in range(100)
        for strike in strikes.due(now_s, 0, RUNNING)
        if strike.fault.times is not None
    ]
    assert found == [
        (10, FaultKind.KILL_DRIVER),
        (20, FaultKind.DISK_FULL),
        (30, FaultKind.KILL_DRIVER),
        (40, FaultKind.DISK_FULL),
    ]


def test_the_driver_dies_of_one_thing_at_a_time() -> None:
    kinds = (FaultKind.KILL_DRIVER, FaultKind.STOP_DRIVER, FaultKind.DISK_FULL)
    strikes = Strikes([fault(kind, times=1) for kind in kinds], 0)
    found = [[strike.fault.kind for strike in strikes.due(1e6, 0, RUNNING)] for _ in range(4)]
    assert found == [[kinds[0]], [kinds[1]], [kinds[2]], []]


# The command


@pytest.mark.parametrize(
    ("words", "fields", "expected"),
    [
        (("--fail", "5%"), {}, []),
        (("--kill", "5%"), {}, ["retries=3"]),
        (("--kill", "5%"), {"retries": 1}, []),
        (("--hang", "5%"), {}, ["retries=3", "silent_limit=30s"]),
        (("--hang", "5%"), {"retries": 1, "silent_limit": "9s"}, []),
        (("--slow", "5%", "--trials", "7", "--parallel", "2"), {}, ["trials=7", "parallel=2"]),
    ],
)
def test_what_the_faults_call_for_is_set(
    words: tuple[str, ...], fields: dict[str, object], expected: list[str]
) -> None:
    experiment = Experiment.from_json(digits.experiment("digits", **fields))
    given = options(*words)
    assert _changes(experiment, plan_of(given), given) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mlflow-outage", "--set", "mlflow=false"), "--mlflow-outage needs"),
        (("--name", "taken"), "taken is there already"),
        (("--kill", "many"), "'many' is no share"),
        (("--every", "never"), "'never' is no interval"),
        (("--set", "trials=none"), "trials"),
        (("nowhere.yaml",), "nowhere.yaml"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raytune-results" / "taken").mkdir(parents=True)
    done = CliRunner().invoke(cli, ["chaos", *words])
    assert done.exit_code == 2
    assert message in done.output
    assert [path.name for path in (tmp_path / "raytune-results").glob("*/*")] == []
