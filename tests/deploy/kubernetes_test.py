"""Overlays as kustomize renders them, against Kubernetes' schemas and against what the server really does."""

import pathlib
import sys

import kubernetes_validate
import pytest
import requests
import yaml

import harness
from bare_root import completed
from harness import ROOT
from packages import VERSION

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
KUBECTL = pathlib.Path(sys.executable).with_name("kubectl")
RELEASE = "1.30"  # the oldest that we claim; its schemas are strict about fields that are not there


@pytest.fixture(params=OVERLAYS)
def objects(request):
    rendered = list(yaml.safe_load_all(completed([str(KUBECTL), "kustomize", str(KUBERNETES / "overlays" / request.param)])))
    return request.param, {item["kind"]: item for item in rendered}


def pod(objects):
    return objects["Deployment"]["spec"]["template"]["spec"]


def container(objects):
    [only] = pod(objects)["containers"]
    return only


def option(objects, name):
    args = container(objects)["args"]
    return args[args.index(name) + 1]


def test_there_are_the_overlays_that_the_readme_names():
    assert OVERLAYS == ["cpu-demo", "dgx2", "one-gpu"]
    assert all(f"`{name}`" in (KUBERNETES / "README.md").read_text() for name in OVERLAYS)


def test_every_object_is_valid_and_strict(objects):
    name, objects = objects
    for kind, item in objects.items():
        if kind == "ServiceMonitor":  # of the Prometheus Operator: no schema of Kubernetes'
            assert set(item["spec"]) == {"selector", "endpoints"}
            continue
        kubernetes_validate.validate(item, RELEASE, strict=True)
        assert kind == "Namespace" or item["metadata"]["namespace"] == "optserve"


def test_a_misspelt_field_would_be_noticed(objects):
    _, objects = objects
    container(objects)["livenesProbe"] = container(objects).pop("livenessProbe")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(objects["Deployment"], RELEASE, strict=True)


def test_selectors_find_the_pods(objects):
    _, objects = objects
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (objects["Deployment"]["spec"]["selector"]["matchLabels"], objects["Service"]["spec"]["selector"],
                     objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]):
        assert selector and selector.items() <= labels.items()
    monitored = objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert monitored and monitored.items() <= objects["Service"]["metadata"]["labels"].items()
    assert objects["ServiceMonitor"]["spec"]["endpoints"][0]["port"] == objects["Service"]["spec"]["ports"][0]["name"]


def test_the_grace_period_is_longer_than_wait_and_drain(objects):
    _, objects = objects
    wait = int(container(objects)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod(objects)["terminationGracePeriodSeconds"] > wait + int(option(objects, "--shutdown-timeout")) + 15


def test_the_pod_is_restricted(objects):
    """Pod Security's level "restricted", and a root that cannot be written."""
    _, objects = objects
    of_pod, of_container = pod(objects)["securityContext"], container(objects)["securityContext"]
    assert of_pod["runAsNonRoot"] and of_pod["runAsUser"] >= 10000
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of_container["capabilities"] == {"drop": ["ALL"]} and of_container["readOnlyRootFilesystem"]
    assert of_container["allowPrivilegeEscalation"] is False
    assert all(set(volume) - {"name"} <= {"emptyDir", "secret", "persistentVolumeClaim"} for volume in pod(objects)["volumes"])


def test_shared_memory_is_memory_and_every_mount_has_its_volume(objects):
    _, objects = objects
    volumes = {volume["name"]: volume for volume in pod(objects)["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container(objects)["volumeMounts"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert set(mounts.values()) == set(volumes)


def test_probes_ask_what_the_server_answers(objects):
    _, objects = objects
    with harness.Server("--no-grpc") as server:

        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            http = container(objects)[probe]["httpGet"]
            assert http["port"] == "http"
            assert requests.get(server.url + http["path"], timeout=5).status_code == 200
    assert container(objects)["livenessProbe"]["httpGet"]["path"] == "/livez"  # not /readyz: a drain is no reason to kill


def test_the_server_takes_the_arguments(objects, tmp_path):
    """--print-config: every option is known and its value understood."""
    name, objects = objects
    shown = harness.run(*container(objects)["args"], "--print-config")
    assert shown.returncode == 0, shown.stderr
    gpus = int(container(objects)["resources"]["limits"].get("nvidia.com/gpu", 0))
    assert gpus == {"cpu-demo": 0, "one-gpu": 1, "dgx2": 16}[name]
    if gpus > 1:
        assert int(option(objects, "--tensor-parallel-size")) == gpus


def test_images_have_this_version(objects):
    _, objects = objects
    assert container(objects)["image"].split(":")[1].removesuffix("-cuda12") == VERSION
