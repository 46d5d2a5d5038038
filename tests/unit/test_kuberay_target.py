"""Settings for KubeRay: what is refused and where, and the file that holds for all experiments."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_hpo import spec
from raytune_hpo.cluster.kuberay import site
from raytune_hpo.errors import SpecError
from raytune_hpo.experiment import Experiment
from raytune_hpo.kuberay_target import KubeRayTarget

FILE = """name: x
run: python t.py ${lr}
objective: {metric: loss}
parameters: {lr: {min: 0, max: 1}}
targets:
  kuberay:
"""


def load(*lines: str) -> Experiment:
    return spec.loads(FILE + "".join(f"    {line}\n" for line in lines), "e.yaml")


def target(*lines: str) -> KubeRayTarget:
    found = load(*lines).targets.kuberay
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["imag: x"], r"e.yaml:7:5: targets.kuberay.imag: unknown key .*did you mean 'image'"),
        (["head:", "  cpu: 2"], r"e.yaml:8:7: targets.kuberay.head.cpu: .*write cpus"),
        (["worker: {replicas: 3}"], r"e.yaml:7:14: .*write max_workers, one level up"),
        (["worker: {gpu_type: a100}"], r"write gpu_resource; for a model, node_selector"),
        (["backoffLimit: 3"], r"write retries"),
        (["storage: s3://b"], r"write pvc: .* here, or storage: s3://"),
        (["pip: [x]"], r"write runtime_env: \{pip"),
        (["pvc: runs"], r"write \{claim: runs\}"),
        (["pvc: {claim: Runs}"], r"as names in Kubernetes, not 'Runs'"),
        (["pvc: {claim: runs, path: data}"], r"whole path"),
        (["pvc: {claim: runs, path: /a/../b}"], r"without : and \.\."),
        (["pvc: {claim: runs, below: ../x}"], r"below the volume's top"),
        (["namespace: team.a"], r"up to 63 characters"),
        (["image: 'a b'"], r"e.yaml:7:12: .*an image such as"),
        (["pull_policy: always"], r"must be Always .*did you mean 'Always'"),
        (["submission_mode: InteractiveMode"], r"nothing would start the run"),
        (["submission_mode: Bogus"], r"must be SidecarMode or K8sJobMode or HTTPMode"),
        (["submission_mode: sidecar"], r"write SidecarMode"),
        (["min_workers: 3", "max_workers: 2"], r"e.yaml:7:18: .*at most max_workers: 2"),
        (["autoscaling: false", "idle: 5m"], r"e.yaml:8:5: .*idle: goes with autoscaling"),
        (["autoscaling: false", "min_workers: 1"], r"min_workers: goes with autoscaling"),
        (["head: {cpus: 0}"], r"head.cpus: goes with submission_mode: HTTPMode or K8sJobMode"),
        (["head: {cpus: 0.0001}"], r"to a thousandth"),
        (["env: {A: 1}"], r"must be a text, not 1; put it in quotes"),
        (["env: {RAY_ADDRESS: x}"], r"RAY_ADDRESS: is set by KubeRay or raytune-hpo itself"),
        (["env: {RAYTUNE_HPO_ROOM: x}"], r"is set by KubeRay or raytune-hpo itself"),
        (["env: {a-b: x}"], r"must be the name of an environment variable"),
        (["env: {A: x}", "env_from_secret: {A: {secret: s, key: k}}"], r"A: is under env too"),
        (["env_from_secret: {A: {name: s, key: k}}"], r"write secret"),
        (["env_from: [{secret: a, config_map: b}]"], r"either secret or config_map"),
        (["env_from: {secret: a}"], r"must be a list such as"),
        (["labels: {raytune-hpo/experiment: x}"], r"is set by KubeRay or raytune-hpo itself"),
        (["labels: {a: 'b c'}"], r"up to 63 letters"),
        (["annotations: {'a b': c}"], r"must be a key such as team"),
        (["tolerations: {key: a}"], r"must be a list; put \[ \] around it"),
        (["tolerations: [{value: a}]"], r"needs a key, or operator: Exists"),
        (["tolerations: [{key: a, seconds: 3}]"], r"goes with effect: NoExecute"),
        (["code: [/etc/passwd]"], r"below the experiment file's folder"),
        (["code: [../x.py]"], r"below the experiment file's folder"),
        (["code: ['a b.py']"], r"of letters, digits"),
        (["code: [a.py, ./a.py]"], r"code\[1\]: is there twice"),
        (["patches: {RayJob: {}}"], r"unknown object 'RayJob'.*there are rayjob, config_map"),
        (["patches: {head: 3}"], r"patches.head: must be a mapping"),
        (["ttl: -5"], r"above 0 seconds"),
    ],
)
def test_what_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load(*lines)


@pytest.mark.parametrize(
    "line",
    [
        "env: {HF_TOKEN: abc}",
        "env: {URL: 'https://me:pw@host/x'}",
        "runtime_env: {env_vars: {API_KEY: abc}}",
        "runtime_env: {working_dir: 'https://me:pw@host/x.zip'}",
        "patches: {head_container: {env: [{name: HF_TOKEN, value: abc}]}}",
    ],
)
def test_secrets_do_not_get_into_a_manifest(line: str) -> None:
    with pytest.raises(SpecError, match=r"write env_from_secret") as caught:
        load(line)
    assert "abc" not in str(caught.value).split("\n")[0]


@pytest.mark.parametrize("mode", ["SidecarMode", "K8sJobMode"])
@pytest.mark.parametrize("text", ["$HOME", "a`b", r"\u007f"])
def test_what_kuberay_would_have_a_shell_read_is_refused(mode: str, text: str) -> None:
    with pytest.raises(SpecError, match=r"passes it through a shell; write it under env"):
        load(f"submission_mode: {mode}", f'runtime_env: {{env_vars: {{A: "x{text}"}}}}')
    assert target("submission_mode: HTTPMode", f'runtime_env: {{env_vars: {{A: "x{text}"}}}}')


def test_only_what_was_written_goes_into_the_journal() -> None:
    experiment = load(
        "max_workers: 4",
        "head: {memory: 2Gi}",
        "tolerations: [{key: a, operator: Exists}]",
        "env_from_secret: {A: {secret: s, key: k}}",
        "patches: {rayjob: {spec: {suspend: null}}}",
    )
    told = experiment.to_json()["targets"]["kuberay"]
    assert told["head"] == {"memory": 2**31}
    assert told["patches"] == {"rayjob": {"spec": {"suspend": None}}}
    assert set(told) == {"max_workers", "head", "tolerations", "env_from_secret", "patches"}
    assert Experiment.from_json(experiment.to_json()).to_json() == experiment.to_json()


def test_an_experiments_own_settings_win_over_those_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "kuberay.yaml"
    file.write_text(
        "image: usual:1\nhead: {cpus: 2, memory: 8Gi}\nenv: {A: x, B: y}\n"
        "tolerations: [{key: a}]\nidle: 5m\n"
    )
    experiment = load("image: own:1", "head: {cpus: 1}", "env: {B: z}", "tolerations: [{key: b}]")
    made = site.target_of(experiment, file)
    assert (made.image, made.head.cpus, made.head.memory) == ("own:1", 1.0, 8 * 2**30)
    assert made.env == {"A": "x", "B": "z"}
    assert [one.key for one in made.tolerations] == ["b"]
    again = Experiment.from_json(experiment.to_json())
    assert site.target_of(again, file) == made
    assert site.target_of(load("autoscaling: false"), file).autoscaling is False


def test_mistakes_in_the_users_file_are_located(tmp_path: Path) -> None:
    file = tmp_path / "kuberay.yaml"
    file.write_text("namespace: a\nnamspace: b\n")
    with pytest.raises(SpecError, match=r"kuberay.yaml:2:1: namspace: unknown key"):
        site.target_of(load("max_workers: 1"), file)


def test_settings_that_only_together_are_wrong_name_both(tmp_path: Path) -> None:
    file = tmp_path / "kuberay.yaml"
    file.write_text("min_workers: 5\n")
    with pytest.raises(SpecError, match=r"together with .*kuberay.yaml.*at most max_workers: 2"):
        site.target_of(load("max_workers: 2"), file)


def test_the_starter_is_valid_as_it_is_and_uncommented(tmp_path: Path) -> None:
    file = tmp_path / "config" / "kuberay.yaml"
    site.write_starter(file)
    assert site.target_of(load("max_workers: 2"), file) == KubeRayTarget(max_workers=2)
    lines = [line.removeprefix("# ") for line in file.read_text().splitlines()]
    settings = [line for line in lines if line.partition(":")[0].replace("_", "").isalpha()]
    file.write_text("\n".join(line for line in settings if not line.startswith("All")))
    made = site.target_of(load("max_workers: 2"), file)
    assert (made.namespace, made.max_workers) == ("my-team", 2)
    with pytest.raises(FileExistsError):
        site.write_starter(file)


def test_the_users_file_is_found_beside_that_of_slurm(tmp_path: Path) -> None:
    found = site.path_of({"XDG_CONFIG_HOME": str(tmp_path)})
    assert found == tmp_path / "raytune-hpo" / "kuberay.yaml"
