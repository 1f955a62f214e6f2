"""The hub's alert rules and Alertmanager's configuration, by the programs that read them."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible_runs
import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import MissingArtifact, Store
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.health import report

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "roles" / "vmalert" / "files" / "rules").glob("*.yml"))
TESTS = sorted((ROOT / "tests" / "unit" / "rules").glob("*.yml"))
ALERTMANAGER = ROOT / "roles" / "alertmanager"

# In what an operator writes: passwords by file, and Alertmanager's own templates, which Ansible must leave alone.
RECEIVERS = """
alertmanager_global:
  smtp_smarthost: mail.example.org:587
  smtp_from: roverwatch@example.org
  smtp_auth_username: roverwatch
  smtp_auth_password_file: /etc/roverwatch/alertmanager/secrets/smtp
alertmanager_route:
  receiver: default
  routes:
    - {receiver: pager, matchers: [severity="critical"]}
alertmanager_receivers:
  - name: default
    email_configs:
      - {to: ops@example.org, headers: {Subject: !unsafe '{{ .CommonLabels.alertname }}'}}
  - name: pager
    webhook_configs:
      - {url_file: /etc/roverwatch/alertmanager/secrets/pager, send_resolved: true}
"""


def program(name: str) -> str:
    """The one that is pinned, or what stands in for it, from the artifact store."""
    bundles = yaml.safe_load((ROOT / "group_vars" / "all" / "artifacts.yml").read_text())["artifacts_binaries"]
    version = next(bundle["version"] for bundle in bundles if name in bundle["debian"]["files"])
    store = Store(ROOT / "artifacts")
    try:
        return str(store.path(store.find(name, version, platform.machine())))
    except MissingArtifact:
        pytest.skip(f"{name} is not in the artifact store: make artifacts")


def ran(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


ALERTS = [rule for rule in rules() if "alert" in rule]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_vmalert_accepts_the_rules(path):
    checked = ran(program("vmalert"), "-dryRun", f"-rule={path}", "-loggerLevel=WARN")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("expr: up == 0", "expr: up == (0"),
        ("{{ $labels.job }}", "{{ $label.job }}"),
        ("for: 1m", "fro: 1m"),
    ],
)
def test_vmalert_refuses_what_is_wrong(good, bad, tmp_path):
    text = (ROOT / "roles" / "vmalert" / "files" / "rules" / "robots.yml").read_text()
    assert good in text
    path = tmp_path / "robots.yml"
    path.write_text(text.replace(good, bad, 1))
    assert ran(program("vmalert"), "-dryRun", f"-rule={path}").returncode != 0


@pytest.fixture(scope="module")
def clock_start(tmp_path_factory: pytest.TempPathFactory) -> int:
    """When vmalert-tool's clock starts, which it says of a test that fails: in 1970, since 1.148 in 2000."""
    path = tmp_path_factory.mktemp("clock") / "clock.yml"
    asked = {"expr": "time()", "eval_time": "0s", "exp_samples": []}
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES[0])], "tests": [{"metricsql_expr_test": [asked]}]}))
    said = ran(program("vmalert_tool"), "unittest", f"--files={path}").stdout
    found = re.search(r"got: \{\} (\S+E[+]\d+)", said)
    assert found, said
    return int(float(found[1]))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_alerts_fire_when_they_should_and_only_then(path, clock_start, tmp_path, monkeypatch):
    # Several threads take a sixth more processor time, and other tests run beside this one.
    monkeypatch.setenv("GOMAXPROCS", "1")
    text = path.read_text().replace("../../..", str(ROOT))
    dated = tmp_path / path.name
    dated.write_text(re.sub(r"@(-?\d+)", lambda match: str(clock_start + int(match[1])), text))
    tested = ran(program("vmalert_tool"), "unittest", f"--files={dated}", "--external.label=hub=hub-1")
    said = tested.stdout + tested.stderr
    assert tested.returncode == 0, said
    assert "SUCCESS" in said
    # An annotation that cannot be rendered, in an alert that fires nevertheless.
    assert "templating error" not in said


def test_a_time_counts_from_when_the_clock_starts():
    """Written @60; without the @ it is right for one version of the tool alone."""
    times = [
        series
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for series in test["input_series"]
        if re.match(r"\w+_(timestamp(_seconds)?|mtime_seconds)\{", series["series"])
    ]
    assert times
    assert [series for series in times if not re.fullmatch(r"((@-?\d+|_)(x\d+)? ?)+", series["values"])] == []


def fired() -> set[str]:
    """The alerts that a test expects at least once, with what it expects beside it."""
    found = set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for expected in test["metricsql_expr_test"]:
                if expected["exp_samples"]:
                    found |= set(re.findall(r'ALERTS\{alertname="(\w+)", alertstate="firing"', expected["expr"]))
    return found


def test_every_alert_has_a_test_in_which_it_fires():
    assert fired() == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert "for" in rule
    assert set(rule["annotations"]) == {"summary", "action"}
    for text in rule["annotations"].values():
        assert "\n" not in text
        assert len(text) > 20


def test_the_alert_that_the_health_report_knows_by_its_name_is_one():
    assert report.ROBOT_GONE in {rule.get("alert") for rule in rules()}


def test_playbooks_that_actions_name_exist():
    named = {name for rule in ALERTS for name in re.findall(r"playbooks/\w+\.yml", rule["annotations"]["action"])}
    assert {name for name in named if not (ROOT / name).exists()} == set()


def rendered(role: str, template: str, tmp_path: Path, *variables: str) -> Path:
    """A role's template as Ansible makes it, with the role's defaults and vars."""
    target = tmp_path / template.removesuffix(".j2")
    argv: list[str | Path] = ["localhost", "-c", "local", "-i", "localhost,", "-m", "ansible.builtin.template"]
    argv += ["-a", f"src={ROOT / 'roles' / role / 'templates' / template} dest={target}"]
    for text in variables:
        path = tmp_path / "vars.yml"
        path.write_text(text)
        argv += ["-e", f"@{path}"]
    argv[5:5] = ["-e", f"@{ROOT / 'roles' / role / 'defaults' / 'main.yml'}"]
    done = ansible_runs.run("ansible", *argv)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.mark.parametrize("variables", [(), (RECEIVERS,)], ids=["defaults", "receivers"])
def test_amtool_accepts_the_configuration(variables, tmp_path):
    config = rendered("alertmanager", "alertmanager.yml.j2", tmp_path, *variables)
    checked = ran(program("amtool"), "check-config", config)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    if variables:
        assert "Subject: '{{ .CommonLabels.alertname }}'" in config.read_text()


def test_amtool_refuses_a_receiver_that_does_not_exist(tmp_path):
    config = rendered("alertmanager", "alertmanager.yml.j2", tmp_path, "alertmanager_route: {receiver: nobody}")
    assert "undefined receiver" in ran(program("amtool"), "check-config", config).stdout


def test_the_inventory_is_a_rule_file_that_vmalert_accepts(tmp_path):
    robots = "vmalert_robots: [{robot: robot-1, fleet: f, site: s}, {robot: robot-2, fleet: f, site: '07'}]"
    path = rendered("vmalert", "inventory.yml.j2", tmp_path, robots)
    assert ran(program("vmalert"), "-dryRun", f"-rule={path}").returncode == 0
    found = yaml.safe_load(path.read_text())["groups"][0]["rules"]
    assert [rule["labels"]["robot"] for rule in found if rule["record"] == "roverwatch_robot_info"] == [
        "robot-1",
        "robot-2",
    ]
    assert found[0] == {"record": "roverwatch_robot_gone_seconds", "expr": "vector(180)"}


def test_debians_alertmanager_finds_every_text_that_it_asks_for():
    asked = set(re.findall(rb'\{\{ ?template "(\w+\.default\.\w+)"', Path(program("alertmanager")).read_bytes()))
    texts = "".join(path.read_text() for path in (ALERTMANAGER / "files").glob("*.tmpl"))
    assert asked
    assert {name.decode() for name in asked} <= set(re.findall(r'define "([\w.]+)"', texts))


@pytest.mark.parametrize("robots", [3, 1000])
def test_the_gateway_sets_what_the_inventory_says_of_a_robot(tmp_path, robots):
    inventory = {f"robot-{number}": {"fleet": f"f & {number}", "site": "07"} for number in range(1, robots)}
    inventory["robot-0"] = {}
    hosts = tmp_path / "hosts.yml"
    hosts.write_text(yaml.safe_dump({"robots": {"hosts": inventory}, "hubs": {"hosts": {"hub-1": {}}}}))
    target = tmp_path / "auth.yml"
    role = ROOT / "roles" / "vmauth"
    done = ansible_runs.run(
        *("ansible", "hub-1", "-c", "local", "-i", hosts, "-m", "ansible.builtin.template", "-e", "fleet_secret=s"),
        *("-e", f"@{role / 'defaults/main.yml'}", "-e", f"@{role / 'vars/main.yml'}"),
        *("-a", f"src={role / 'templates/auth.yml.j2'} dest={target}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    users = {user["username"]: user["url_map"][0]["url_prefix"] for user in yaml.safe_load(target.read_text())["users"]}
    base = "http://127.0.0.1:8428/?extra_label=robot="
    assert len(users) == robots + 1
    assert users["robot-0"] == f"{base}robot-0&extra_label=fleet=default&extra_label=site=default"
    assert users["robot-2"] == f"{base}robot-2&extra_label=fleet=f%20%26%202&extra_label=site=07"
    assert users["operator"] == "http://127.0.0.1:8428/"
