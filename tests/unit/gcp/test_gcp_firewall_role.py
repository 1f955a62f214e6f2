"""The role gcp_firewall, with the real modules of google.cloud, against a fake of the Compute API."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import ansible_runs
import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.firewall import rules as firewall
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp import vpc
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.gcp.vpc import Settings
from compute_api import Api, service_account
from compute_api.firewalls import Firewalls

ROOT = Path(__file__).resolve().parents[3]
FIREWALLS = "projects/demo/global/firewalls"
TARGETS = {"robots": "roverwatch-robot", "hubs": "roverwatch-hub"}
SETTINGS = Settings("demo", "default", "roverwatch", TARGETS, 1000, 65000, False, "EXCLUDE_ALL_METADATA")
CLOSED = ["roverwatch-deny-hubs", "roverwatch-deny-hubs-ipv6"]


def rule(name: str = "gateway", **more: Any) -> dict[str, Any]:
    return {"name": name, "groups": ["hubs"], "ports": [8427], "sources": ["10.20.0.0/16"], **more}


class Run:
    """ansible-playbook with the role, as an operator runs it."""

    def __init__(self, api: Api, directory: Path) -> None:
        self.api = api
        self.directory = directory
        self.output = ""

    def __call__(
        self, rules: list[Any], *arguments: str, tasks: str = "main", ok: bool = True, **variables: Any
    ) -> str:
        self.api.requests.clear()
        who = {"gcp_project": "demo", "gcp_auth_kind": "accesstoken", "gcp_access_token": self.api.token}
        variables = {**who, "firewall_rules": rules, "gcp_firewall_retry_delay": 0, **variables}
        inventory = {"all": {"vars": variables, "children": {"robots": {"hosts": {"robot-1": {}}}, "hubs": {}}}}
        role = {"ansible.builtin.import_role": {"name": "gcp_firewall", "tasks_from": tasks}}
        play = {"hosts": "localhost", "gather_facts": False, "tasks": [role]}
        (self.directory / "hosts.yml").write_text(yaml.safe_dump(inventory))
        (self.directory / "play.yml").write_text(yaml.safe_dump([play]))
        files = ["-i", self.directory / "hosts.yml", self.directory / "play.yml"]
        done = ansible_runs.run("ansible-playbook", *files, *arguments, environment=self.api.environment)
        self.output = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, self.output
        assert self.api.token not in self.output
        return self.output

    @property
    def changed(self) -> int:
        return int(re.findall(r"changed=(\d+)", self.output)[-1])


@pytest.fixture
def run(compute_api: Api, tmp_path: Path) -> Run:
    return Run(compute_api, tmp_path)


def rendered(*rules: dict[str, Any]) -> dict[str, dict[str, Any]]:
    parsed, _ = firewall.parse(list(rules))
    return {made["name"]: made for made in vpc.render(parsed, SETTINGS)[0]}


def there(api: Api) -> dict[str, dict[str, Any]]:
    return {path.rpartition("/")[2]: its for path, its in api.store.items() if path.startswith(FIREWALLS)}


def put(api: Api, *rules: dict[str, Any]) -> None:
    for made in rules:
        api.put(f"{FIREWALLS}/{made['name']}", {key: value for key, value in made.items() if value != []})


def said(output: str) -> str:
    """The output with each run of white space as one blank: lines are broken where the terminal ends."""
    return " ".join(output.split())


def test_the_rules_are_made_once_and_check_mode_only_says_so(run: Run) -> None:
    rules = [rule(sources=["10.20.0.0/16", "2001:db8::/32"])]
    names = ["roverwatch-gateway", "roverwatch-gateway-ipv6", *CLOSED]

    output = run(rules, "--check", "--diff")
    assert (run.changed, len(run.api.requests), run.api.writes) == (1, 1, [])
    for name in names:
        assert f"GCP project demo: would create {name}\n" in output
        assert f"+name: {name}\n" in output
    assert "+sourceRanges: 2001:db8::/32\n" in output
    assert not there(run.api)

    output = run(rules)
    assert [write.body["name"] for write in run.api.writes] == names
    assert run.changed == 1
    for name, made in rendered(*rules).items():
        assert {key: there(run.api)[name][key] for key in made} == made

    before = copy.deepcopy(run.api.store)
    run(rules, "--diff", "-vvv")
    assert (run.changed, len(run.api.requests), run.api.writes) == (0, 1, [])
    assert run.api.store == before


# What somebody does to a rule by hand, by the rule's name.
DRIFT: dict[str, dict[str, Any]] = {
    "ports": {"allowed": [{"IPProtocol": "tcp", "ports": ["8427", "22"]}]},
    "range-added": {"sourceRanges": ["10.20.0.0/16", "10.30.0.0/16", "192.0.2.0/24"]},
    "range-removed": {"sourceRanges": ["10.20.0.0/16"]},
    "tag-removed": {"targetTags": []},
    "tag-added": {"targetTags": ["roverwatch-hub", "everything"]},
    "source-tag": {"sourceTags": ["bastion"]},
    "priority": {"priority": 65100},
    "disabled": {"disabled": True},
    "logging": {"logConfig": {"enable": True, "metadata": "INCLUDE_ALL_METADATA"}},
    "turned": {"allowed": [], "denied": [{"IPProtocol": "tcp", "ports": ["8427"]}]},
}
REPLACED = {"ports", "range-added", "tag-removed", "tag-added", "source-tag", "turned"}


def test_drift_is_repaired_in_a_project_of_many_rules_and_nothing_of_others_is_touched(run: Run) -> None:
    run.api.polls = -1
    listed = [rule(name, sources=["10.20.0.0/16", "10.30.0.0/16"]) for name in DRIFT]
    wanted = rendered(*listed, rule("new-name"))
    old = rendered(rule("old-name"), rule("gone"))
    mine = {name: made for name, made in {**old, **wanted}.items() if name != "roverwatch-new-name"}
    put(run.api, *({**made, **DRIFT.get(name.removeprefix("roverwatch-"), {})} for name, made in mine.items()))
    of_others = [{**mine["roverwatch-gone"], "name": f"theirs-{number:03}"} for number in range(520)]
    of_others.append({**mine["roverwatch-gone"], "name": "roverwatch-by-hand", "description": "mine"})
    put(run.api, *of_others)
    kept = {made["name"]: copy.deepcopy(there(run.api)[made["name"]]) for made in of_others}

    output = run([*listed, rule("new-name")], "--diff")
    now = there(run.api)
    for name, made in wanted.items():
        replaced = name.removeprefix("roverwatch-") in REPLACED
        assert (name in now) is not replaced, name
        assert vpc.normal(now[f"{name}-2" if replaced else name]) == vpc.normal(made), name
    assert {name: now.pop(name) for name in kept} == kept
    assert len(now) == len(wanted)
    # Each list takes two pages; the names of what went, after everything else.
    assert sum(request.path == FIREWALLS and request.method == "GET" for request in run.api.requests) == 4
    writes = [(write.method, write.path.rpartition("/")[2]) for write in run.api.writes]
    deleted = [f"roverwatch-{name}" for name in (*REPLACED, "old-name", "gone")]
    assert {method for method, _ in writes[-len(deleted) :]} == {"DELETE"}
    assert sorted(name for _, name in writes[-len(deleted) :]) == sorted(deleted)
    assert len(writes) == len(DRIFT) + 1 + len(deleted)
    assert "-targetTags: everything\n" in output


def test_a_busy_api_is_asked_again_and_the_operator_sees_it(run: Run) -> None:
    run.api.fail("GET", FIREWALLS, status=429, times=2)
    run.api.fail("POST", FIREWALLS, status=503)
    run.api.fail("POST", FIREWALLS, status=502, text="<html>Bad Gateway</html>")
    run.api.fail("POST", FIREWALLS, status=0)
    run.api.fail("POST", FIREWALLS, status=403, reason="rateLimitExceeded", message="Rate Limit Exceeded")
    output = run([rule(sources=[])])
    assert sorted(there(run.api)) == CLOSED
    assert [write.status for write in run.api.writes] == [503, 502, 0, 403, 200, 200]
    assert len(re.findall(r"FAILED - RETRYING: .*Ask GCP", output)) == 2
    assert len(re.findall(r"FAILED - RETRYING: .*while GCP is busy", output)) == 4


def test_an_api_that_stays_busy_is_given_up(run: Run) -> None:
    run.api.fail("GET", FIREWALLS, status=503, times=99)
    output = run([rule()], ok=False, gcp_firewall_retries=2)
    assert len(run.api.requests) == 3
    assert "Nothing was changed at GCP: The service is currently unavailable. GCP stayed like this" in said(output)


def test_a_missing_permission_is_named_and_nothing_is_tried_after_it(run: Run) -> None:
    run.api.deny("compute.firewalls.create")
    put(run.api, *rendered(rule("gone")).values())
    before = copy.deepcopy(run.api.store)
    output = said(run([rule()], ok=False))
    assert [(write.method, write.status) for write in run.api.writes] == [("POST", 403)]
    assert run.api.store == before
    assert (
        "create roverwatch-gateway: Required 'compute.firewalls.create' permission for "
        "'projects/demo/global/firewalls/roverwatch-gateway'. Whoever asks (gcp_firewall_auth_kind is accesstoken) "
        "lacks compute.firewalls.create in the project demo: give them roles/compute.securityAdmin"
    ) in output


def test_a_rule_that_somebody_else_makes_meanwhile_is_an_error(run: Run) -> None:
    run.api.fail("POST", FIREWALLS, status=409, message="The resource 'x' already exists")
    output = said(run([rule()], ok=False))
    assert len(run.api.writes) == 1
    assert "create roverwatch-gateway: The resource 'x' already exists. Somebody else made it meanwhile" in output


def test_a_change_that_did_not_come_about_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.api.polls = -1
    # Somebody opens what was just closed.
    monkeypatch.setattr(Firewalls, "settled", lambda _, made: {**made, "disabled": True})
    output = said(run([rule(sources=[])], ok=False))
    assert "GCP's rules are not what they should be after the run" in output
    assert "still to do: update roverwatch-deny-hubs (disabled)" in output


def test_what_is_wrong_with_the_rules_is_said_at_once_before_anything_is_asked(run: Run) -> None:
    rules = [rule(ports=[99999]), rule("to-all", groups=["robots", "site_a"]), rule("long" * 10)]
    output = run(rules, ok=False, gcp_firewall_prefix="p" * 22, gcp_project="", site_a="")
    assert "Nothing was changed at GCP:" in output
    text = said(output)
    for words in (
        "gcp_firewall_project is empty: set gcp_project",
        "- rule gateway: port 99999 is out of range",
        "- rule to-all: the inventory has no group site_a",
        f"- rule {'long' * 10}: at GCP it would be",
    ):
        assert words in text
    assert not run.api.requests


def test_a_list_without_any_rule_is_not_taken_for_the_wish_to_open_everything(run: Run) -> None:
    put(run.api, *rendered(rule()).values())
    assert "firewall_rules has no rule" in said(run([], ok=False))
    assert not run.api.requests


def test_a_rule_of_somebody_else_with_our_name_stops_the_run_before_any_change(run: Run) -> None:
    wanted = rendered(rule(), rule("other"))
    put(run.api, {**wanted["roverwatch-gateway"], "description": "edited by hand"})
    output = said(run([rule(), rule("other")], ok=False))
    assert "rule roverwatch-gateway: the project demo has one of this name" in output
    assert not run.api.writes


def test_a_service_account_logs_in_and_is_a_target(run: Run) -> None:
    account = "hub@demo.iam.gserviceaccount.com"
    key = service_account(run.api)
    who: dict[str, Any] = {
        "gcp_auth_kind": "serviceaccount",
        "gcp_service_account_file": str(key),
        "gcp_access_token": "",
    }
    output = run([rule()], "-vvv", **who, gcp_firewall_targets={"hubs": account}, gcp_firewall_logging=True)
    assert "PRIVATE KEY" not in output
    for made in there(run.api).values():
        assert made["targetServiceAccounts"] == [account]
        assert made["logConfig"] == {"enable": True, "metadata": "EXCLUDE_ALL_METADATA"}
        assert "targetTags" not in made


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"gcp_project": "nowhere"}, "Nothing was changed at GCP: GCP has no project nowhere"),
        ({"gcp_access_token": "expired"}, "GCP does not take gcp_firewall_access_token: it has expired"),
        ({"gcp_network": "nowhere"}, "Set gcp_firewall_network to a network of the project demo"),
        ({"gcp_auth_kind": "application", "gcp_access_token": ""}, "nobody is logged in to GCP on this machine"),
    ],
)
def test_what_the_module_only_stumbles_over_is_explained(run: Run, variables: dict[str, Any], words: str) -> None:
    assert words in said(run([rule(sources=[])], ok=False, **variables))
    assert "RETRYING" not in run.output
    assert not there(run.api)


def test_removal_takes_our_rules_alone(run: Run) -> None:
    run.api.polls = -1
    wanted = rendered(rule())
    other = {**wanted["roverwatch-gateway"], "name": "roverwatch-by-hand", "description": "mine"}
    put(run.api, *wanted.values(), other)
    before = copy.deepcopy(run.api.store)
    output = run([], "--check", tasks="uninstall")
    assert "would delete roverwatch-gateway" in output
    assert run.api.store == before
    # What is wrong with the list is no reason to keep the rules.
    run([rule(ports=[99999])], tasks="uninstall")
    assert sorted(there(run.api)) == ["roverwatch-by-hand"]
