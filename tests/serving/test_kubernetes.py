"""The manifests for Kubernetes follow the schemas, agree with each other, and name what the service has."""

import copy
import inspect
import re
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

import steadylens
from steadylens.cli.deploy import serve
from tests.serving.servers import Server

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.iterdir())
PAGE = ROOT / "docs" / "containers.md"
OLDEST = "1.30"


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def pod() -> Any:
    return read("deployment")["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    (found,) = pod["containers"]
    return found


@pytest.fixture
def options(container: Any) -> dict[str, str]:
    """The options that the deployment gives to the command."""
    command, _, *options = container["args"]
    assert command == "serve"
    return dict(option.removeprefix("--").split("=") for option in options)


def rule() -> Any:
    """The rule for the adapter in the page."""
    (block,) = re.findall(r"```yaml\n(rules:.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = yaml.safe_load(block)["rules"]
    return found


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_a_manifest_follows_the_schema_and_a_misspelt_field_would_be_found(path: Path, version: str) -> None:
    (manifest,) = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    kubernetes_validate.validate(manifest, version, strict=True)
    wrong = copy.deepcopy(manifest)
    wrong["spec"]["seletcor"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_all_manifests_are_about_the_pods_of_the_deployment() -> None:
    deployment = read("deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert read("service")["spec"]["selector"] == labels
    assert read("disruption")["spec"]["selector"]["matchLabels"] == labels
    assert read("autoscaler")["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"], "applying it again would undo what the autoscaler did"


def test_the_options_exist_and_the_port_is_the_same_everywhere(
    container: Any, options: dict[str, str]
) -> None:
    assert {name.replace("-", "_") for name in options} <= inspect.signature(serve).parameters.keys()
    (port,) = container["ports"]
    notes = read("deployment")["spec"]["template"]["metadata"]["annotations"]
    assert options["port"] == str(port["containerPort"]) == notes["prometheus.io/port"]
    assert read("service")["spec"]["ports"][0]["targetPort"] == port["name"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
    assert container["image"] == f"steadylens:{steadylens.__version__}"


def test_the_service_answers_every_path_and_has_every_metric(container: Any, classifier: Server) -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        path = container[probe]["httpGet"]["path"]
        assert httpx.get(f"{classifier.address}{path}").status_code == 200, path
    notes = read("deployment")["spec"]["template"]["metadata"]["annotations"]
    exported = httpx.get(f"{classifier.address}{notes['prometheus.io/path']}").text
    (metric,) = read("autoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f"# TYPE {name} gauge" in exported
    assert rule()["seriesQuery"].partition("{")[0] == rule()["name"]["as"] == name
    assert set(re.findall(r"steadylens_\w+", str(rule()))) == {name}


def test_another_pod_starts_before_one_turns_requests_away(options: dict[str, str]) -> None:
    (metric,) = read("autoscaler")["spec"]["metrics"]
    wanted = int(metric["pods"]["target"]["averageValue"])
    assert 1 <= wanted <= int(options["max-queue"]) * int(options["workers"]) / 2


def test_a_pod_has_time_to_answer_what_it_has_accepted(
    pod: Any, container: Any, options: dict[str, str]
) -> None:
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= waits + int(options["stop-seconds"]) + 5


def test_a_pod_may_change_nothing_but_its_temporary_folder(pod: Any, container: Any) -> None:
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"]
    assert not rights["allowPrivilegeEscalation"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]  # noqa: S108
    assert [volume["name"] for volume in pod["volumes"]] == [container["volumeMounts"][0]["name"]]
    (threads,) = container["env"]
    assert threads == {"name": "OMP_NUM_THREADS", "value": container["resources"]["limits"]["cpu"]}
