"""The typed experiment: fields, checks between them, the Python route and the JSON form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.running import FromEnv, looks_secret, placeholders
from raytune_hpo.space import Choice, Constant, Float, Int, LogNormal, Normal, Ordinal

BASE: dict[str, Any] = {
    "run": "python train.py --lr ${lr}",
    "objective": {"metric": "loss"},
    "parameters": {"lr": {"min": 1e-5, "max": 0.1, "log": True}, "layers": {"min": 2, "max": 8}},
}


def make(**changes: Any) -> Experiment:
    return Experiment.from_json({**BASE, **changes})


def problems(**changes: Any) -> dict[str, str]:
    """Return the message of each problem, by its path."""
    with pytest.raises(SpecError) as caught:
        make(**changes)
    found = {problem.path: problem.message for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems)
    return found


def problem(**changes: Any) -> tuple[str, str]:
    """Return path and message of the only problem."""
    ((path, message),) = problems(**changes).items()
    return path, message


def train(config: dict[str, Any]) -> float:
    return float(config["lr"])


# Defaults


def test_three_fields_are_enough() -> None:
    experiment = make()
    assert experiment.name == "experiment"
    assert (experiment.search.algorithm, experiment.search.seed) == ("auto", None)
    assert experiment.scheduler.algorithm == "none"
    assert (experiment.parallel, experiment.max_failed, experiment.retries) == (None, None, 0)
    assert (experiment.resources.cpu, experiment.resources.gpu) == (1.0, 0.0)
    assert experiment.metrics.model_dump() == {"source": "stdout", "path": None, "patterns": {}}
    assert experiment.checkpoint.keep == 1
    assert experiment.mlflow is not False
    assert experiment.objectives.modes == ("min",)
    assert experiment.search_space.dimensions == ["lr", "layers"]


@pytest.mark.parametrize(
    ("changes", "trials"),
    [
        ({}, 50),
        ({"trials": None}, 50),
        ({"trials": 7}, 7),
        ({"time_limit": "2h"}, None),
        ({"stop_when": {"no_improvement": 5}}, None),
        ({"objective": {"metric": "loss", "target": 0.1}}, None),
        ({"search": {"algorithm": "grid", "settings": {"resolution": 3}}}, None),
    ],
)
def test_trials_are_limited_when_nothing_else_ends_the_run(
    changes: dict[str, Any], trials: int | None
) -> None:
    assert make(**changes).trials == trials


def test_an_empty_field_is_an_absent_one() -> None:
    assert make(search=None, description=None, resources={"memory": None}) == make()


# Fields


def test_units_become_seconds_and_bytes() -> None:
    experiment = make(
        time_limit="1h30m",
        trial_time_limit="10m",
        silent_limit=30,
        resources={"memory": "4Gi", "gpu": 0.5, "custom": {"tpu": 2}},
    )
    assert experiment.time_limit_s == 5400.0
    assert (experiment.trial_time_limit_s, experiment.silent_limit_s) == (600.0, 30.0)
    assert experiment.resources.memory == 4 * 2**30
    assert experiment.resources.custom == {"tpu": 2.0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trials", 0),
        ("trials", "many"),
        ("parallel", 0),
        ("max_failed", -1),
        ("retries", 1.5),
        ("time_limit", 0),
        ("time_limit", -5),
        ("tensorboard", "on"),
        ("description", 5),
        ("workdir", ""),
        ("storage", "s3://key:secret@bucket/x"),
        ("name", "My Run"),
    ],
)
def test_wrong_values_are_refused(field: str, value: object) -> None:
    path, message = problem(**{field: value})
    assert path == field
    assert message


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("search", {"seed": -1}),
        ("search", {"algorithm": "tpee"}),
        ("scheduler", {"algorithm": "ashaa"}),
        ("stop_when", {"no_improvement": 0}),
        ("resources", {"cpu": 1.5}),
        ("resources", {"gpu": -1}),
        ("resources", {"memory": "4Gx"}),
        ("checkpoint", {"keep": 0}),
        ("targets", {"slurm": "gpu"}),
        ("metrics", {"source": "stderr"}),
        ("mlflow", {"tags": {"a": ""}}),
    ],
)
def test_wrong_values_in_sections_are_refused(section: str, value: dict[str, Any]) -> None:
    path, _ = problem(**{section: value})
    assert path.startswith(f"{section}.{next(iter(value))}")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"repeats": 3}, "repeats"),
        ({"resources": {"workers": 2}}, "resources.workers"),
        ({"mlflow": {"register": "best"}}, "mlflow.register"),
        ({"metrics": {"source": "tensorboard"}}, "metrics.source"),
    ],
)
def test_what_comes_later_is_not_supported_yet(changes: dict[str, Any], path: str) -> None:
    found, message = problem(**changes)
    assert found == path
    assert "not supported yet" in message


@pytest.mark.parametrize(
    ("changes", "path", "near"),
    [
        ({"trails": 5}, "trails", "'trials'"),
        ({"search": {"sed": 5}}, "search.sed", "'seed'"),
        ({"resources": {"memroy": 5}}, "resources.memroy", "'memory'"),
        ({"objective": {"metric": "a", "mod": "min"}}, "objective.mod", "'mode'"),
        ({"env": {"A": {"from_nev": "B"}}}, "env.A.from_nev", "'from_env'"),
    ],
)
def test_unknown_keys_name_the_nearest_and_all_valid_ones(
    changes: dict[str, Any], path: str, near: str
) -> None:
    found = problems(**changes)
    assert f"did you mean {near}" in found[path]
    assert "valid keys: " in found[path]


@pytest.mark.parametrize("word", ["minimize", "Maximize", "maximise"])
def test_the_mode_of_other_tools_gets_a_hint(word: str) -> None:
    path, message = problem(objective={"metric": "loss", "mode": word})
    assert path == "objective.mode"
    assert message.endswith(f"write {word[:3].lower()}")


def test_goal_gets_a_hint() -> None:
    path, message = problem(objective={"metric": "loss", "goal": "minimize"})
    assert path == "objective.goal"
    assert "mode: min" in message
    assert "target" in message


def test_an_objective_is_a_metric_or_an_expression() -> None:
    assert problem(objective={"mode": "min"})[0] == "objective"
    assert problem(objective={"metric": "a", "expression": "a / b"})[0] == "objective.expression"
    assert problem(objective=[{"metric": "a"}, {"metric": "a"}])[0] == "objective[1]"
    assert problem(objective=[])[0] == "objective"
    assert "write {metric: loss" in problem(objective="loss")[1]


@pytest.mark.parametrize("name", ["loss", "val/loss", "p99(ms)", "a b", "x.y"])
def test_metrics_may_be_named_freely(name: str) -> None:
    assert make(objective={"metric": name}).objectives.inputs == {name}


def test_what_cannot_name_a_metric_is_refused() -> None:
    assert problem(objective={"metric": "a`b"})[0] == "objective.metric"
    assert problem(objective={"metric": 5})[0] == "objective.metric"


def test_a_target_is_a_finite_number() -> None:
    assert make(objective={"metric": "a", "target": 1}).objectives.goals[0].target == 1.0
    for wrong in ("0.1", True, float("inf")):
        assert problem(objective={"metric": "a", "target": wrong})[0] == "objective.target"


def test_several_objectives_and_constraints_become_an_objective() -> None:
    experiment = make(
        objective=[
            {"expression": "throughput / p99_ms", "mode": "max", "at": "best"},
            {"metric": "p99(ms)", "target": 20},
        ],
        constraints=["errors == 0", "p99_ms <= 20"],
    )
    objective = experiment.objectives
    assert objective.names == ("throughput / p99_ms", "p99(ms)")
    assert objective.modes == ("max", "min")
    assert [goal.at for goal in objective.goals] == ["best", "last"]
    metrics = {"throughput": 100.0, "p99_ms": 25.0, "p99(ms)": 25.0, "errors": 0}
    assert objective.values(metrics) == (4.0, 25.0)
    assert objective.violations(metrics) == (0.0, 5.0)


def test_expressions_and_constraints_are_read_at_once() -> None:
    found = problems(
        objective={"expression": "a +* b"}, constraints=["p99 <= 20", "import os", "p99"]
    )
    assert set(found) == {"objective.expression", "constraints[1]", "constraints[2]"}


def test_constraints_are_a_list() -> None:
    assert problem(constraints="p99 <= 20")[1].endswith('write ["p99 <= 20"]')


def test_patterns_are_regular_expressions_with_a_group() -> None:
    assert make(metrics={"patterns": {"a": "a=([0-9]+)"}}).metrics.patterns == {"a": "a=([0-9]+)"}
    found = problems(metrics={"patterns": {"a": "a=([0-9]+", "b": "b="}})
    assert "is not a regular expression" in found["metrics.patterns.a"]
    assert "group" in found["metrics.patterns.b"]


@pytest.mark.parametrize(
    ("metrics", "path"),
    [
        ({"source": "file"}, "metrics.source"),
        ({"path": "out.json"}, "metrics.path"),
        ({"source": "json", "patterns": {"a": "(.)"}}, "metrics.patterns"),
    ],
)
def test_metric_options_fit_together(metrics: dict[str, Any], path: str) -> None:
    assert problem(metrics=metrics)[0] == path


def test_tracking_can_be_switched_off() -> None:
    assert make(mlflow=False).mlflow is False
    assert make(mlflow=True) == make()
    assert make(mlflow=False).to_json()["mlflow"] is False


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("https://me:hunter2@host/x", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("postgresql://me:hunter2@host/x", "MLFLOW_TRACKING_URI"),
    ],
)
def test_an_address_with_a_password_is_refused(uri: str, hint: str) -> None:
    path, message = problem(mlflow={"uri": uri})
    assert path == "mlflow.uri"
    assert hint in message
    assert "hunter2" not in message


def test_settings_are_checked_by_the_searcher() -> None:
    settings = {"resolution": 3, "resolutoin": 3}
    path, message = problem(search={"algorithm": "grid", "settings": settings})
    assert path == "search.settings.resolutoin"
    assert "did you mean 'resolution'" in message
    assert problem(search={"settings": {"resolution": 3}})[0] == "search.settings.resolution"


# What runs


@pytest.mark.parametrize(
    ("run", "is_function"),
    [
        ("train:main", True),
        ("package.train:main", True),
        ("python train.py", False),
        ("./bench.sh", False),
        ("echo a:b", False),
        (["python", "train.py"], False),
        ("__main__:outer.<locals>.train", True),
        ("__main__:<lambda>", True),
    ],
)
def test_what_is_a_function(run: str | list[str], is_function: bool) -> None:
    assert make(run=run).is_function is is_function


def test_a_file_is_no_module() -> None:
    assert problem(run="train.py:main")[1].endswith("write train:main")
    assert problem(run="my.2nd:main")[0] == "run"


@pytest.mark.parametrize("run", ["", "  ", [], ["a", None], 5, {"command": "x"}])
def test_what_cannot_run_is_refused(run: object) -> None:
    assert next(iter(problems(run=run))).startswith("run")


def test_words_of_a_command_are_text() -> None:
    assert make(run=["train", 5, 0.5, True]).run == ("train", "5", "0.5", "true")


def test_placeholders_are_found_and_the_shell_is_left_alone() -> None:
    text = "a ${x} $y $$ $${z} ${HOME:-/root} ${model.layers} $(date) ${}"
    assert placeholders(text) == [("x", 5), ("model.layers", 37)]


def test_unknown_placeholders_are_refused() -> None:
    path, message = problem(run="train ${lrr}")
    assert (path, message) == ("run", "${lrr} is no parameter (did you mean 'lr'?)")
    path, message = problem(run=["train", "--lr=${lr}", "${HOME}"])
    assert path == "run[2]"
    assert "a shell variable is $HOME" in message


def test_variables_are_text_and_secrets_are_references() -> None:
    experiment = make(env={"THREADS": 4, "FLAG": True, "HF_TOKEN": {"from_env": "MY_TOKEN"}})
    assert experiment.env == {
        "THREADS": "4",
        "FLAG": "true",
        "HF_TOKEN": FromEnv(from_env="MY_TOKEN"),
    }
    assert experiment.resolved_env({"MY_TOKEN": "s3cret"}) == {
        "THREADS": "4",
        "FLAG": "true",
        "HF_TOKEN": "s3cret",
    }
    assert "s3cret" not in json.dumps(experiment.to_json())


def test_a_reference_to_nothing_is_an_error_that_names_it() -> None:
    experiment = make(env={"A": {"from_env": "NOT_THERE"}, "B": {"from_env": "NEITHER"}})
    with pytest.raises(SpecError, match="NOT_THERE") as caught:
        experiment.resolved_env({})
    assert [problem.path for problem in caught.value.problems] == ["env.A", "env.B"]


@pytest.mark.parametrize("name", ["A-B", "1A", "", "Ä"])
def test_names_of_variables_are_checked(name: str) -> None:
    assert problem(env={name: "x"})[1] == "must be the name of an environment variable"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("GITHUBTOKEN", True),
        ("PGPASSWORD", True),
        ("AWS_SECRET_ACCESS_KEY", True),
        ("api_key", True),
        ("GOOGLE_CREDENTIALS", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("KEYBOARD", False),
        ("OMP_NUM_THREADS", False),
    ],
)
def test_names_that_look_secret(name: str, secret: bool) -> None:
    assert looks_secret(name) is secret


def test_secret_values_are_not_written_and_looked_up_later() -> None:
    experiment = make(env={"API_KEY": "hunter2", "THREADS": "4"})
    written = json.dumps(experiment.to_json())
    assert "hunter2" not in written
    assert json.loads(written)["env"] == {"API_KEY": "***", "THREADS": "4"}
    again = Experiment.from_json(json.loads(written))
    assert again.resolved_env({"API_KEY": "hunter2"}) == {"API_KEY": "hunter2", "THREADS": "4"}


# Parameters


def test_every_form_of_a_parameter() -> None:
    experiment = make(
        parameters={
            "lr": {"min": 1e-5, "max": 1, "log": True},
            "layers": {"min": 2, "max": 8, "step": 2},
            "share": {"min": 0, "max": 1, "step": 0.25},
            "forced": {"type": "float", "min": 0, "max": 1},
            "dropout": {"min": 0.0, "max": 0.9, "prior": {"normal": {"mean": 0.3, "sd": 0.2}}},
            "width": {"min": 1, "max": 9, "prior": {"lognormal": {"mean": 1, "sd": 1}}},
            "optimizer": {"values": ["sgd", "adam", None, True, 3]},
            "batch": {"values": [16, 32, 64], "ordered": True},
            "epochs": {"value": 10},
            "kind": "plain",
            "model": {"units": {"min": 1, "max": 4}, "value": {"values": ["a", "b"]}},
            "momentum": {"min": 0.0, "max": 0.99, "when": "optimizer == sgd"},
        }
    )
    assert experiment.parameters == {
        "lr": Float(1e-5, 1.0, log=True),
        "layers": Int(2, 8, step=2),
        "share": Float(0.0, 1.0, step=0.25),
        "forced": Float(0.0, 1.0),
        "dropout": Float(0.0, 0.9, prior=Normal(0.3, 0.2)),
        "width": Int(1, 9, prior=LogNormal(1.0, 1.0)),
        "optimizer": Choice(("sgd", "adam", None, True, 3)),
        "batch": Ordinal((16, 32, 64)),
        "epochs": Constant(10),
        "kind": Constant("plain"),
        "model.units": Int(1, 4),
        "model.value": Choice(("a", "b")),
        "momentum": Float(0.0, 0.99, when="optimizer == sgd"),
    }


@pytest.mark.parametrize(
    ("parameter", "where", "words"),
    [
        ({"mn": 1, "max": 2}, ".mn", "did you mean 'min'"),
        ({"valus": [1, 2]}, ".valus", "did you mean 'values'"),
        ({"min": 1}, "", "max is missing"),
        ({"low": 1, "high": 2}, ".low", "write min"),
        ({"distribution": "uniform", "min": 1, "max": 2}, ".distribution", "leave it out"),
        ({"min": 1, "max": 2, "values": [1]}, ".min", "does not go with values"),
        ({"values": [1, 2], "log": True}, ".log", "does not go with values"),
        ({"min": "1", "max": 2}, ".min", "must be a number"),
        ({"min": True, "max": 2}, ".min", "must be a number"),
        ({"min": 1, "max": float("inf")}, ".max", "finite"),
        ({"min": 1, "max": 2, "log": "yes"}, ".log", "write true"),
        ({"type": "int", "min": 1.5, "max": 2}, ".min", "whole number"),
        ({"type": "integer", "min": 1, "max": 2}, ".type", "write int"),
        ({"min": 1, "max": 2, "prior": {"nromal": {}}}, ".prior.nromal", "unknown prior"),
        ({"min": 1, "max": 2, "prior": {"normal": {"mean": 1}}}, ".prior", "sd"),
        ({"min": 1, "max": 2, "when": True}, ".when", "must be a text"),
        ({"values": "abc"}, ".values", "must be a list"),
        ({"values": [1, {"a": 1}]}, ".values[1]", "must be a text, a number"),
        ([1, 2], "", "{values: [...]}"),
        (None, "", "is empty"),
        ({}, "", "is empty"),
        ({"value": [{"a": 1}]}, ".value[0]", "must be a text, a number"),
    ],
)
def test_wrong_parameters_are_told_apart(parameter: object, where: str, words: str) -> None:
    found = problems(parameters={"lr": {"min": 0.1, "max": 1.0}, "p": parameter})
    assert words in found[f"parameters.p{where}"]


def test_a_space_that_cannot_be_searched_is_refused_at_its_field() -> None:
    found = problems(
        parameters={
            "lr": {"min": 1.0, "max": 0.1},
            "m": {"group": {"a": {"min": 0.0, "max": 1.0, "log": True}}},
            "x": {"min": 0.0, "max": 1.0, "when": "m ="},
        }
    )
    assert len([path for path in found if path.startswith("parameters.lr")]) == 1
    assert len([path for path in found if path.startswith("parameters.m.group.a")]) == 1
    assert len([path for path in found if path.startswith("parameters.x.when")]) == 1


def test_a_condition_on_a_wrong_parameter_is_not_judged() -> None:
    found = problems(
        parameters={
            "lr": {"min": 0.1, "max": 1.0},
            "optimizer": {"values": "sgd"},
            "momentum": {"min": 0.0, "max": 0.99, "when": "optimizer == sgd"},
        }
    )
    assert set(found) == {"parameters.optimizer.values"}


def test_a_parameter_may_not_be_there_twice() -> None:
    found = problems(parameters={"lr": 1, "a.b": 1, "a": {"b": 2}, "b": 1, "b.c": 1})
    assert found == {
        "parameters.a.b": "the parameter 'a.b' is there twice",
        "parameters.b.c": "'b.c' and 'b' cannot both be parameters",
    }


@pytest.mark.parametrize("name", ["", "a b", "1a", "a..b", "a.", "${x}", "a\n"])
def test_names_of_parameters_are_checked(name: str) -> None:
    ((path, message),) = problems(parameters={"lr": 1, name: 1}).items()
    assert path.startswith("parameters")
    assert message.startswith("a name is made of letters")


@pytest.mark.parametrize("value", [{}, [], "lr"])
def test_there_is_something_to_vary(value: object) -> None:
    assert "parameters" in problems(run="x", parameters=value)


# Checks between fields


def test_all_mistakes_come_at_once() -> None:
    found = problems(
        run="train ${lrr}",
        objective={"metric": "loss", "mode": "minimize"},
        trails=5,
        baseline={"lr": 0.01, "layer": 3},
        search={"algorithm": "tpe", "initial": [{"lr": 5.0, "layers": 2}]},
        scheduler={"algorithm": "asha", "settings": {"grase": 1}},
        resources={"cpu": -1},
    )
    assert {path.partition("[")[0].partition(".")[0] for path in found} == {
        "run",
        "objective",
        "trails",
        "baseline",
        "search",
        "scheduler",
        "resources",
    }


def test_a_scheduler_for_one_goal_refuses_several() -> None:
    several = [{"metric": "a"}, {"metric": "b"}]
    path, message = problem(objective=several, scheduler={"algorithm": "median"})
    assert path == "scheduler.algorithm"
    assert "one goal" in message
    spec = {**BASE, "objective": several, "scheduler": {"algorithm": "asha"}}
    assert Experiment.from_json(spec).objectives.multi


def test_a_scheduler_s_settings_are_checked_where_they_stand() -> None:
    scheduler = {"algorithm": "asha", "settings": {"reduction_factor": 1, "max_resource": 9}}
    path, message = problem(scheduler=scheduler)
    assert path == "scheduler.settings.reduction_factor"
    assert message == "must be above 1, not 1"
    path, message = problem(scheduler={"algorithm": "hyperband"})
    assert path == "scheduler"
    assert message.startswith("max_resource must be at least 3")


def test_a_population_needs_a_size() -> None:
    path, message = problem(scheduler={"algorithm": "pbt"}, time_limit="1h")
    assert path == "scheduler.algorithm"
    assert "needs trials" in message


def test_a_grid_needs_points() -> None:
    path, message = problem(search={"algorithm": "grid"})
    assert path == "search.algorithm"
    assert "step for lr, or search.settings.resolution" in message
    assert make(search={"algorithm": "grid", "settings": {"resolution": 3}})
    stepped = {"lr": {"min": 0.1, "max": 0.5, "step": 0.1}}
    assert make(search={"algorithm": "grid"}, parameters=stepped)


def test_configurations_are_checked_and_made_flat() -> None:
    experiment = make(
        parameters={
            "lr": {"min": 0, "max": 1, "type": "float"},
            "model": {"layers": {"min": 1, "max": 4}, "kind": "mlp"},
        },
        baseline={"lr": 1, "model": {"layers": 2}},
        search={"initial": [{"lr": 0.5, "model.layers": 3}]},
    )
    assert experiment.baseline == {"lr": 1.0, "model.layers": 2, "model.kind": "mlp"}
    assert type(experiment.baseline["lr"]) is float
    assert experiment.search.initial == ({"lr": 0.5, "model.layers": 3, "model.kind": "mlp"},)


def test_wrong_configurations_are_refused_where_they_are_wrong() -> None:
    found = problems(
        baseline={"lr": 5.0, "layers": 2},
        search={"initial": [{"lr": 0.01, "layers": 2}, {"lr": 0.01}, {"lrr": 1, "layers": 3}]},
    )
    assert "baseline.lr" in found
    assert "search.initial[2].lrr" in found
    assert not any(path.startswith("search.initial[0]") for path in found)
    assert any(path.startswith("search.initial[1]") for path in found)


# Python


def test_a_function_object_makes_an_experiment() -> None:
    experiment = Experiment.from_python(
        train,
        {"lr": Float(1e-5, 1e-1, log=True), "model": {"layers": Int(1, 4)}},
        metric="loss",
        mode="max",
        trials=5,
        time_limit="1h",
        search={"seed": 3},
    )
    assert experiment.function is train
    assert experiment.is_function
    assert experiment.run == f"{__name__}:train"
    assert experiment.name == "train"
    assert experiment.search_space.dimensions == ["lr", "model.layers"]
    assert (experiment.objectives.modes, experiment.trials) == (("max",), 5)
    assert experiment.time_limit_s == 3600.0


def test_a_function_object_is_kept_out_of_the_json_form() -> None:
    experiment = Experiment.from_python(lambda config: 1.0, {"x": Float(0.0, 1.0)}, "loss")
    again = Experiment.from_json(json.loads(json.dumps(experiment.to_json())))
    assert again.function is None
    assert again.is_function
    assert again.with_function(train).function is train
    assert again.function is None


def test_python_mistakes_are_told_without_a_file() -> None:
    with pytest.raises(SpecError) as caught:
        Experiment.from_python(train, {"x": Float(2.0, 1.0)}, "loss", trails=3)
    assert {problem.path for problem in caught.value.problems} >= {"trails"}
    assert any(p.path.startswith("parameters.x") for p in caught.value.problems)
    assert all(problem.line == 0 for problem in caught.value.problems)


def test_python_mistakes_are_told_in_the_words_of_python() -> None:
    with pytest.raises(SpecError) as caught:
        Experiment.from_python(
            train, {"x": Float(2.0, 1.0), "y": object(), "z": 1}, "loss", baseline={"z": object()}
        )
    paths = [problem.path for problem in caught.value.problems]
    assert sorted(paths) == ["baseline.z", "parameters.x.low", "parameters.y"]
    with pytest.raises(SpecError, match="Keys should be strings"):
        Experiment.from_json({**BASE, 5: 1})  # type: ignore[dict-item]


@pytest.mark.parametrize("run", [train, type("Callable", (), {"__call__": train})()])
def test_any_callable_can_be_a_trial(run: Any) -> None:
    experiment = Experiment.from_python(run, {"x": 1.5}, "loss")
    assert experiment.function is run
    assert experiment.is_function


def test_metric_and_objective_exclude_one_another() -> None:
    with pytest.raises(SpecError, match="either metric or objective"):
        Experiment.from_python("x", {"x": 1}, "loss", objective={"metric": "loss"})


# JSON


FULL: dict[str, Any] = {
    "name": "full",
    "description": "All fields.",
    "run": ["python", "train.py", "${lr}"],
    "workdir": "code",
    "env": {"A": "1", "T_TOKEN": {"from_env": "X"}},
    "setup": "module load python",
    "objective": [{"expression": "a / b", "mode": "max", "target": 3.0}, {"metric": "c"}],
    "constraints": ["d <= 20"],
    "parameters": {
        "lr": {"min": 1e-5, "max": 0.1, "log": True},
        "whole": {"type": "float", "min": 1, "max": 2},
        "n": {"min": 1, "max": 9, "step": 2, "prior": {"normal": {"mean": 3, "sd": 2}}},
        "opt": {"values": ["sgd", None, [1, 2]]},
        "size": {"values": [1, 2], "ordered": True},
        "m": {"min": 0.0, "max": 1.0, "when": "size == 2"},
        "fixed": {"value": None},
    },
    "trials": 20,
    "search": {"algorithm": "random", "seed": 1, "initial": []},
    "scheduler": {"algorithm": "none"},
    "parallel": 2,
    "max_failed": 3,
    "retries": 1,
    "time_limit": "2h",
    "trial_time_limit": "10m",
    "silent_limit": "5m",
    "stop_when": {"no_improvement": 5},
    "baseline": {"lr": 0.01, "whole": 1, "n": 3, "opt": None, "size": 2, "m": 0.5},
    "resources": {"cpu": 2, "gpu": 0.5, "memory": "4Gi", "custom": {"tpu": 1}},
    "metrics": {"source": "file", "path": "out.txt", "patterns": {"a": "a=(.*)"}},
    "storage": "/scratch/runs",
    "mlflow": {"uri": "https://host", "experiment": "e", "tags": {"team": "a"}},
    "tensorboard": True,
    "checkpoint": {"keep": 2},
    "targets": {
        "slurm": {"partition": "gpu", "workers": 4, "time": 7200.0, "head": {"cpus": 2}},
        "kuberay": {},
    },
}


def test_every_field_is_in_the_full_example() -> None:
    assert set(FULL) == set(Experiment.valid_keys())


@pytest.mark.parametrize(
    "data", [BASE, FULL, {**BASE, "mlflow": False}], ids=["base", "full", "off"]
)
def test_the_json_form_is_complete_and_stable(data: dict[str, Any]) -> None:
    experiment = Experiment.from_json(data)
    written = json.loads(json.dumps(experiment.to_json(), allow_nan=False))
    assert Experiment.from_json(written) == experiment
    assert Experiment.model_validate(written) == experiment
    assert Experiment.from_json(written).to_json() == written
    assert all(isinstance(key, str) for key in written)


def test_an_experiment_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make().trials = 3
