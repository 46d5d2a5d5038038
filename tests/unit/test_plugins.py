import importlib
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from raytune_hpo import plugins
from raytune_hpo.errors import PluginError, SpecError
from raytune_hpo.objective import Constraint, Objective
from raytune_hpo.plugins import (
    Kind,
    auto_searcher,
    check_objective,
    check_settings,
    make_scheduler,
    make_searcher,
)
from raytune_hpo.schedulers.asha import Asha
from raytune_hpo.schedulers.none import NoScheduler
from raytune_hpo.searchers.grid import GridSearcher
from raytune_hpo.searchers.random import RandomSearcher
from raytune_hpo.space import Choice, Float, SearchSpace

LOSS = Objective.of("loss", "min")
LINE = SearchSpace({"x": Float(0.0, 1.0)})
FINITE = SearchSpace({"x": Choice(("a", "b", "c"))})
KINDS: tuple[Kind, ...] = ("searchers", "schedulers", "launchers")


class Annealing(RandomSearcher):
    def __init__(
        self,
        space: SearchSpace,
        objective: Objective,
        seed: int,
        cooling: float = 0.9,
        schedule: Literal["linear", "log"] = "log",
    ) -> None:
        super().__init__(space, objective, seed)
        self.given: tuple[object, ...] = (space, objective, seed, cooling, schedule)


class Modest(RandomSearcher):
    """What another package may say of its searcher."""

    several_goals: ClassVar[bool] = False
    constraints: ClassVar[bool] = False


class Reticent:
    """A searcher of another package that says nothing of what it can."""

    def __init__(self, space: SearchSpace, objective: Objective, seed: int) -> None:
        self.objective = objective


class Permissive(NoScheduler):
    def __init__(
        self, space: SearchSpace, objective: Objective, seed: int, **settings: object
    ) -> None:
        super().__init__(space, objective, seed)
        self.settings = settings


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two installed distributions with plug-ins, one of which is broken."""
    here = __name__
    _distribution(
        tmp_path,
        "annealers",
        f"[raytune_hpo.searchers]\nannealing = {here}:Annealing\nlost = no_such_module:X\n"
        f"modest = {here}:Modest\nreticent = {here}:Reticent\n"
        f"[raytune_hpo.schedulers]\npermissive = {here}:Permissive\n",
    )
    _distribution(tmp_path, "rivals", "[raytune_hpo.searchers]\nlost = other:Y\ntpe = other:Z\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def _distribution(folder: Path, name: str, points: str) -> None:
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(points)


@pytest.mark.parametrize("kind", KINDS)
def test_table_is_sorted_and_loads(kind: Kind) -> None:
    table = plugins._BUILT_IN[kind]
    assert list(table) == sorted(table)
    for name, target in table.items():
        assert plugins.load(kind, name).__name__ == target.partition(":")[2]


def test_names() -> None:
    assert plugins.names("searchers") == [
        "auto", "bo", "bohb", "cmaes", "evolution", "grid", "hyperopt",
        "irace", "mfbo", "random", "sobol", "tpe",
    ]  # fmt: skip
    assert plugins.names("schedulers") == [
        "asha", "bohb", "hyperband", "irace", "median", "none", "patient", "pb2", "pbt",
        "pbt_replay", "percentile", "sha", "threshold",
    ]  # fmt: skip


def test_settings_reach_the_plugin() -> None:
    searcher = make_searcher("grid", LINE, LOSS, 1, {"resolution": 3})
    assert isinstance(searcher, GridSearcher)
    assert searcher.resolution == 3
    scheduler = make_scheduler("asha", LINE, LOSS, 1, {"max_resource": 9, "reduction_factor": 4})
    assert isinstance(scheduler, Asha)
    assert (scheduler.max_resource, scheduler.reduction_factor) == (9, 4)


def test_unknown_name_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(PluginError) as caught:
        make_searcher("tpo", LINE, LOSS, 1)
    assert str(caught.value) == (
        "unknown searcher 'tpo' (did you mean 'tpe'?); valid: "
        + ", ".join(plugins.names("searchers"))
    )
    with pytest.raises(PluginError, match=r"unknown scheduler 'ahsa' \(did you mean 'asha'"):
        make_scheduler("ahsa", LINE, LOSS, 1)


def test_unknown_setting_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(PluginError) as caught:
        make_scheduler("asha", LINE, LOSS, 1, {"reduction_facto": 3})
    assert str(caught.value) == (
        "unknown setting 'reduction_facto' of scheduler 'asha' (did you mean 'reduction_factor'?); "
        "valid: brackets, form, max_resource, min_resource, reduction_factor, resource"
    )
    with pytest.raises(PluginError, match="'x' of searcher 'random'; valid: it has none"):
        make_searcher("random", LINE, LOSS, 1, {"x": 1})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"brackets": "two"}, "has to be a whole number, not 'two'"),
        ({"brackets": 2.0}, "has to be a whole number, not 2.0"),
        ({"brackets": True}, "has to be a whole number, not True"),
        ({"max_resource": "9"}, "has to be a number or null, not '9'"),
        ({"min_resource": None}, "has to be a number, not None"),
        ({"resource": 3}, "has to be a text or null, not 3"),
    ],
)
def test_settings_of_the_wrong_type(settings: dict[str, object], words: str) -> None:
    (message,) = check_settings("schedulers", "asha", settings)
    assert message.endswith(words)
    with pytest.raises(PluginError, match=r"setting '\w+' of scheduler 'asha'"):
        make_scheduler("asha", LINE, LOSS, 1, settings)


def test_right_settings_pass() -> None:
    assert check_settings("schedulers", "asha", {"resource": None, "max_resource": 9.5}) == []
    assert check_settings("searchers", "tpe", {"failures": "ignore", "multivariate": True}) == []
    assert check_settings("searchers", "grid", {"shuffle": False}) == []


def test_every_wrong_setting_is_told() -> None:
    assert len(check_settings("searchers", "tpe", {"gama": 1, "failures": "panic"})) == 2


def test_unknown_name_is_a_message_too() -> None:
    (message,) = check_settings("searchers", "bayes", {})
    assert message.startswith("unknown searcher 'bayes'")


def test_auto_looks_at_the_scheduler() -> None:
    two = Objective((*LOSS.goals, *Objective.of("speed", "max").goals))
    assert auto_searcher(LINE, LOSS, 50, "asha")[0] == "mfbo"
    assert auto_searcher(LINE, two, 50, "asha")[0] == "mfbo"
    assert auto_searcher(LINE, LOSS, 50, "bohb")[0] == "bohb"
    assert auto_searcher(LINE, two, 50, "bohb")[0] == "mfbo"
    assert auto_searcher(LINE, LOSS, 50, "pbt")[0] == "sobol"
    assert auto_searcher(LINE, LOSS, 50, "irace")[0] == "irace"


def test_auto_takes_no_settings() -> None:
    assert check_settings("searchers", "auto", {}) == []
    (message,) = check_settings("searchers", "auto", {"candidates": 3})
    assert "name it instead of 'auto'" in message


def test_value_out_of_range_is_found_when_made() -> None:
    with pytest.raises(SpecError, match=r"search\.settings\.resolution: must be at least 1, not 0"):
        make_searcher("grid", LINE, LOSS, 1, {"resolution": 0})


@pytest.mark.parametrize(
    ("space", "trials", "expected"),
    [
        (FINITE, 3, "grid"),
        (FINITE, 50, "grid"),
        (FINITE, 2, "auto"),
        (FINITE, None, "auto"),
        (LINE, 50, "auto"),
        (LINE, 3, "auto"),
        (LINE, None, "auto"),
    ],
)
def test_auto(space: SearchSpace, trials: int | None, expected: str) -> None:
    name, reason = auto_searcher(space, LOSS, trials)
    assert name == expected
    assert reason


@pytest.mark.usefixtures("installed")
def test_foreign_plugin_is_made_with_checked_settings() -> None:
    assert "annealing" in plugins.names("searchers")
    made = make_searcher("annealing", LINE, LOSS, 7, {"cooling": 1})
    assert isinstance(made, Annealing)
    assert made.given == (LINE, LOSS, 7, 1, "log")
    assert check_settings("searchers", "annealing", {"schedule": "cubic", "cool": 1}) == [
        "setting 'schedule' of searcher 'annealing' has to be one of 'linear', 'log', not 'cubic'",
        "unknown setting 'cool' of searcher 'annealing' (did you mean 'cooling'?); "
        "valid: cooling, schedule",
    ]


GOALS = (*LOSS.goals, *Objective.of("speed", "max").goals)
RULE = Constraint.parse("memory <= 8")


@pytest.mark.parametrize("name", ["bohb", "hyperopt"])
def test_a_searcher_for_one_goal_refuses_several_and_names_those_that_can(name: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_searcher(name, LINE, Objective(GOALS), 1)
    (problem,) = caught.value.problems
    assert problem.path == "search.algorithm"
    words, _, listed = problem.message.rpartition(": ")
    assert words == f"{name} searches for one goal only; these can do what is asked"
    able = [n for n in plugins.names("searchers") if plugins.load("searchers", n).several_goals]
    assert listed == ", ".join(able)
    assert "tpe" in able
    assert name not in able
    assert make_searcher(name, LINE, Objective(LOSS.goals, (RULE,)), 1).suggest(0)


@pytest.mark.parametrize("name", ["grid", "random", "sobol", "tpe"])
def test_the_others_take_goals_and_constraints(name: str) -> None:
    settings = {"resolution": 2} if name == "grid" else {}
    assert make_searcher(name, LINE, Objective(GOALS, (RULE,)), 1, settings).suggest(0)


@pytest.mark.usefixtures("installed")
def test_what_a_foreign_searcher_says_of_itself_counts() -> None:
    for objective, words in (
        (Objective(GOALS), "modest searches for one goal only;"),
        (Objective(LOSS.goals, (RULE,)), "modest takes no constraints;"),
        (Objective(GOALS, (RULE,)), "modest searches for one goal only and takes no constraints;"),
    ):
        message = check_objective("modest", objective) or ""
        assert message.startswith(words)
        listed = message.rpartition(": ")[2].split(", ")
        assert listed == sorted(listed)
        assert {"annealing", "grid", "reticent"} <= set(listed)
        assert not {"lost", "modest"} & set(listed)
    assert check_objective("modest", LOSS) is None


@pytest.mark.usefixtures("installed")
def test_a_foreign_searcher_that_says_nothing_counts_as_able() -> None:
    objective = Objective(GOALS, (RULE,))
    assert check_objective("reticent", objective) is None
    assert vars(make_searcher("reticent", LINE, objective, 1)) == {"objective": objective}


@pytest.mark.usefixtures("installed")
def test_of_names_that_cannot_be_loaded_the_objective_says_nothing() -> None:
    for name in ("auto", "lost", "no-such-searcher"):
        assert check_objective(name, Objective(GOALS)) is None


@pytest.mark.usefixtures("installed")
def test_plugin_with_open_settings_gets_them_all() -> None:
    made = make_scheduler("permissive", LINE, LOSS, 1, {"anything": [1]})
    assert isinstance(made, Permissive)
    assert made.settings == {"anything": [1]}


def test_broken_plugin_fails_only_when_asked_for(installed: Path) -> None:
    (installed / "rivals-1.2.dist-info" / "entry_points.txt").write_text("")
    importlib.invalidate_caches()
    assert "lost" in plugins.names("searchers")
    assert make_searcher("random", LINE, LOSS, 1).suggest(0) is not None
    with pytest.raises(PluginError, match=r"'lost' of annealers 1\.2 .*ModuleNotFoundError"):
        make_searcher("lost", LINE, LOSS, 1)
    (message,) = check_settings("searchers", "lost", {})
    assert "annealers 1.2" in message


@pytest.mark.usefixtures("installed")
def test_name_taken_twice_is_refused() -> None:
    with pytest.raises(PluginError, match=r"offered by annealers 1\.2 and rivals 1\.2"):
        make_searcher("lost", LINE, LOSS, 1)
    with pytest.raises(PluginError, match=r"offered by raytune-hpo itself and rivals 1\.2"):
        make_searcher("tpe", LINE, LOSS, 1)
    assert make_searcher("grid", LINE, LOSS, 1).suggest(0) is not None


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys; from raytune_hpo import plugins; plugins.names('searchers');"
        "print([m for m in ('optuna', 'hyperopt', 'ray', 'mlflow', 'raytune_hpo.searchers.tpe')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
