"""Cluster files, checked as far as that goes without such clusters: schemas, shell, what they say against what we do."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.engine import faults
from pipeline.stage import Resources

FOLDER = Path(__file__).parents[1] / "recipes" / "clusters"
KUBERAY = ("kuberay-cluster.yaml", "kuberay-job.yaml")
FILES = (*KUBERAY, "ray-up.yaml", "slurm.sh")

# Fields of the ray.io/v1 resources that are in use here or near it (KubeRay's CRD reference, 1.5): a misspelt one is found.
JOB_FIELDS = {
    "entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec",
    "activeDeadlineSeconds", "runtimeEnvYAML", "submitterPodTemplate", "suspend", "jobId", "metadata", "clusterSelector",
}  # fmt: skip
CLUSTER_FIELDS = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
    "headServiceAnnotations", "suspend", "gcsFaultToleranceOptions",
}  # fmt: skip
AUTOSCALER_FIELDS = {"version", "upscalingMode", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources", "env"}
HEAD_FIELDS = {"rayStartParams", "template", "serviceType", "headService", "enableIngress"}
WORKER_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"}


def loaded(name: str) -> Any:
    return YAML(typ="safe", pure=True).load(FOLDER / name)


def cluster_of(document: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = document["spec"]
    return spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


def gibibytes(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Gi|Mi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) / (1 if unit == "Gi" else 1024)


def groups(name: str) -> Iterator[dict[str, Any]]:
    spec = cluster_of(loaded(name))
    yield spec["headGroupSpec"]
    yield from spec["workerGroupSpecs"]


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_manifests_have_the_fields_of_the_resource_and_no_others(name: str) -> None:
    document = loaded(name)
    assert document["apiVersion"] == "ray.io/v1"
    assert document["kind"] in ("RayCluster", "RayJob")
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    if document["kind"] == "RayJob":
        assert set(document["spec"]) <= JOB_FIELDS
        assert document["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
    spec = cluster_of(document)
    assert set(spec) <= CLUSTER_FIELDS
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER_FIELDS
    assert spec["autoscalerOptions"]["version"] in ("v1", "v2")
    assert spec["authOptions"] == {"mode": "token"}
    assert set(spec["headGroupSpec"]) <= HEAD_FIELDS
    for group in spec["workerGroupSpecs"]:
        assert set(group) <= WORKER_FIELDS
        assert {"groupName", "rayStartParams", "template"} <= set(group)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_pods_are_complete_and_every_start_parameter_is_one_of_ray_start(name: str) -> None:
    from ray.scripts.scripts import start

    options = {option.lstrip("-") for parameter in start.params for option in parameter.opts}
    for group in groups(name):
        for key, value in group["rayStartParams"].items():
            assert key in options, key
            assert isinstance(value, str), "KubeRay takes strings"
        spec = group["template"]["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", ())}
        (container,) = spec["containers"]
        assert {"name", "image", "resources"} <= set(container)
        assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
        resources = container["resources"]
        assert resources["requests"] == resources["limits"], "Ray believes in what it is told at the start"


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_workers_hold_as_many_tasks_as_they_have_cores(name: str) -> None:
    head, *workers = groups(name)
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in workers:
        (container,) = group["template"]["spec"]["containers"]
        cores, memory = (
            int(container["resources"]["limits"]["cpu"]),
            gibibytes(container["resources"]["limits"]["memory"]),
        )
        store = int(group["rayStartParams"]["object-store-memory"]) / 2**30
        assert cores * Resources().memory_bytes / 2**30 + store + 1 <= 0.9 * memory


def test_the_cluster_in_the_job_is_the_cluster() -> None:
    job, cluster = (cluster_of(loaded(name)) for name in reversed(KUBERAY))
    gpus = [group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu"]
    assert [g["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for g in gpus] == ["1"]
    cluster["workerGroupSpecs"] = [group for group in cluster["workerGroupSpecs"] if group not in gpus]
    assert job == cluster


def test_the_ray_version_is_the_one_that_is_tested() -> None:
    pinned = re.search(r"^ray==(\S+)$", (FOLDER.parents[1] / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    for name in KUBERAY:
        assert cluster_of(loaded(name))["rayVersion"] == pinned[1]


def test_ray_up_accepts_its_file() -> None:
    """Through the code that `ray up` itself runs before it touches a machine, with Ray's own schema."""
    pytest.importorskip("jsonschema")
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = loaded("ray-up.yaml")
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    (node,) = prepared["available_node_types"].values()
    assert node["max_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(jsonschema.ValidationError, match="'setup_comands' was unexpected"):
        validate_config({**prepared, "setup_comands": []})


def commands(text: str, program: str) -> list[list[str]]:
    """Option names of each call of a program in a shell text, up to its own command (`--`)."""
    found = re.findall(rf"{program}\s+([^\n'|;]*(?:\\\n[^\n'|;]*)*)", text)
    return [re.findall(r"(?<!\S)(--[a-z-]+)", call.split(" -- ")[0]) for call in found]


def test_every_option_of_ray_and_tokenmill_in_the_files_exists() -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run
    from typer.main import get_command

    from pipeline.cli import app

    run = get_command(app).commands["run"]  # type: ignore[attr-defined]
    known = {
        r"tokenmill run": {o for p in run.params for o in p.opts},
        r"ray start": {o for p in start.params for o in p.opts},
        r"ray symmetric-run": {o for c in (start, symmetric_run) for p in c.params for o in p.opts},
    }
    seen = 0
    for name in (*FILES, "README.md"):
        text = (FOLDER / name).read_text()
        for program, options in known.items():
            for call in commands(text, program):
                assert set(call) <= options, (name, program, set(call) - options)
                seen += len(call)
    assert seen > 25


def test_the_slurm_script_is_sound_shell(tmp_path: Path) -> None:
    script = FOLDER / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "set -euo pipefail" in text
    head = text.split("\nset -euo pipefail")[0]
    assert all(line.startswith("#") or not line for line in head.splitlines()), "#SBATCH lines end at the first command"
    assert len(re.findall(r"^#SBATCH --[a-z-]+(=\S+)?$", text, re.MULTILINE)) == text.count("#SBATCH")
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def test_the_slurm_script_starts_ray_on_every_node_with_a_token_that_it_removes(tmp_path: Path) -> None:
    """The whole script runs, with stand-ins for Slurm's own commands, which print what they were asked for."""
    tools, environment = tmp_path / "tools", tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "activate").write_text("")
    tools.mkdir()
    stand_ins = {
        "scontrol": "echo node1; echo node2; echo node3\n",
        "srun": 'echo "srun $*"; echo "mode $RAY_AUTH_MODE"; stat -c "%a %s" "$RAY_AUTH_TOKEN_PATH"; echo "scratch $TMPDIR"\n',
    }
    for name, body in stand_ins.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}")
        (tools / name).chmod(0o755)
    variables = {
        "SLURM_JOB_NODELIST": "node[1-3]", "SLURM_JOB_ID": "41234", "SLURM_CPUS_ON_NODE": "48", "TMPDIR": str(tmp_path),
        "SLURM_SUBMIT_DIR": str(tmp_path), "TOKENMILL_VENV": str(environment), "TOKENMILL_SCRATCH": "/scratch",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", FOLDER / "slurm.sh", "web.yaml", "s3://b/r"],
        env={**variables, "PATH": f"{tools}:{Path(shutil.which('python3') or '').parent}:/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "python: command not found" in done.stderr:
        pytest.skip("no `python` on this machine's PATH")
    assert done.returncode == 0, done.stderr
    call, mode, token, scratch = done.stdout.splitlines()
    assert call.startswith("srun --nodes=3 --ntasks=3 --ntasks-per-node=1")
    assert "ray symmetric-run --address node1:21234 --min-nodes 3 --num-cpus 48" in call
    assert call.endswith("-- tokenmill run web.yaml --out s3://b/r --executor ray --address node1:21234 --plain")
    assert mode == "mode token"
    assert token == "600 64"
    assert scratch == "scratch /scratch"
    assert not list(tmp_path.glob(".ray-token-*"))
    usage = subprocess.run(["bash", FOLDER / "slurm.sh"], capture_output=True, text=True, check=False)
    assert usage.returncode != 0
    assert "usage: sbatch slurm.sh RECIPE RUN" in usage.stderr


def test_every_placeholder_is_explained_and_every_explained_one_is_used() -> None:
    used = {word for name in FILES for word in re.findall(r"REPLACE_[A-Z_]*[A-Z]", (FOLDER / name).read_text())}
    explained = set(re.findall(r"REPLACE_[A-Z_]*[A-Z]", (FOLDER / "README.md").read_text()))
    assert used == explained
    assert len(used) >= 10


def test_images_are_placeholders_and_nothing_secret_is_in_a_file() -> None:
    for name in KUBERAY:
        for group in groups(name):
            for container in group["template"]["spec"]["containers"]:
                assert container["image"] == "REPLACE_IMAGE"
    secret = re.compile(
        r"AKIA[0-9A-Z]{16}|-----BEGIN|password\s*[:=]|auth_token:\s*\S|\b[0-9a-f]{40,}\b", re.IGNORECASE
    )
    for path in FOLDER.iterdir():
        assert not secret.search(path.read_text()), path


def test_the_page_says_what_the_code_does() -> None:
    page = (FOLDER / "README.md").read_text()
    assert f"up to {faults.ATTEMPTS['worker']} times" in page
    assert f"{faults.ATTEMPTS['outage']} times in all" in page
    pauses = [faults.pause_seconds("outage", n) for n in range(1, faults.ATTEMPTS["outage"])]
    assert (pauses[0], pauses[-1]) == (0.5, 16.0)
    assert "after 0.5, 1, 2, … 16 s" in page
    assert Resources().memory_bytes == 1 << 30
    assert "1 GiB by default" in page


def test_core_hours_follow_from_the_rates() -> None:
    page = (FOLDER / "README.md").read_text()
    rows = re.findall(r"^\| .* \| ([0-9–]+) \| ([0-9.–]+) \|$", page, re.MULTILINE)
    assert len(rows) == 8
    for rates, hours in rows:
        expected = [1e6 / float(rate) / 3600 for rate in reversed(rates.split("–"))]
        for want, said in zip(expected, hours.split("–"), strict=True):
            assert abs(want - float(said)) <= 0.06 * want + 0.05, (rates, hours, expected)
