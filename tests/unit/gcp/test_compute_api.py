"""The fake of the Compute API by itself, over the wire: what the real modules do not ask of it, or would not show."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google.auth.exceptions
import pytest
import requests
from compute_api import Api, ApiError, Collection, Where, served, service_account
from compute_api.resources import matches
from google.auth.transport.requests import AuthorizedSession
from google.oauth2.service_account import Credentials

BASE = "https://compute.googleapis.com/compute/v1/"
FIREWALLS = "projects/demo/global/firewalls"
SSH = [{"IPProtocol": "tcp", "ports": ["22"]}]

Ask = Callable[..., requests.Response]


@pytest.fixture
def ask(compute_api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    for name in ("HTTPS_PROXY", "https_proxy", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, compute_api.environment[name])
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {compute_api.token}"
    with session:
        yield lambda method, path, **more: session.request(method, BASE + path, **more)


def made(ask: Ask, **rule: Any) -> dict[str, Any]:
    """A firewall rule, once its operation is done; the error if it is refused."""
    answer = ask("POST", FIREWALLS, json={"name": "ssh", "allowed": SSH, **rule})
    if answer.status_code != 200:
        refused: dict[str, Any] = answer.json()["error"]
        return refused
    operation = answer.json()
    while operation["status"] != "DONE":
        operation = ask("GET", f"projects/demo/global/operations/{operation['name']}").json()
    target = operation["targetLink"].removeprefix("https://www.googleapis.com/compute/v1/")
    found: dict[str, Any] = ask("GET", target).json()
    return found


def test_a_rule_is_there_when_its_operation_is_done(compute_api: Api, ask: Ask) -> None:
    compute_api.polls = 1
    operation = ask("POST", FIREWALLS, json={"name": "ssh", "allowed": SSH}).json()
    assert operation["status"] == "RUNNING"
    assert ask("GET", f"{FIREWALLS}/ssh").status_code == 404
    assert "items" not in ask("GET", FIREWALLS).json()
    assert ask("POST", FIREWALLS, json={"name": "ssh", "allowed": SSH}).status_code == 409
    polls = [ask("GET", f"projects/demo/global/operations/{operation['name']}").json()["status"] for _ in range(2)]
    assert polls == ["RUNNING", "DONE"]
    rule = ask("GET", f"{FIREWALLS}/ssh").json()
    assert rule.pop("id").isdigit()
    assert rule.pop("creationTimestamp").startswith("20")
    assert rule == {
        "kind": "compute#firewall",
        "name": "ssh",
        "selfLink": f"https://www.googleapis.com/compute/v1/{FIREWALLS}/ssh",
        "network": "https://www.googleapis.com/compute/v1/projects/demo/global/networks/default",
        "direction": "INGRESS",
        "priority": 1000,
        "disabled": False,
        "allowed": SSH,
        "sourceRanges": ["0.0.0.0/0"],
        "logConfig": {"enable": False},
    }


def test_an_operation_that_nobody_asks_for_ends_as_well(ask: Ask) -> None:
    ask("POST", FIREWALLS, json={"name": "ssh", "allowed": SSH})
    answers = [ask("GET", f"{FIREWALLS}/ssh").status_code for _ in range(5)]
    assert answers == sorted(answers, reverse=True)
    assert {answers[0], answers[-1]} == {404, 200}


def test_a_patch_leaves_what_it_does_not_name_and_replaces_lists(ask: Ask) -> None:
    made(ask, sourceRanges=["10.0.0.0/8", "192.0.2.0/24"], sourceTags=["a"], targetTags=["b"])
    ask("PATCH", f"{FIREWALLS}/ssh", json={"sourceRanges": ["10.0.0.0/8"], "targetTags": None, "disabled": True})
    for _ in range(4):
        rule = ask("GET", f"{FIREWALLS}/ssh").json()
    assert (rule["sourceRanges"], rule["sourceTags"], rule["disabled"]) == (["10.0.0.0/8"], ["a"], True)
    assert "targetTags" not in rule


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"name": "Ssh"}, "resource.name"),
        ({"name": "a" * 64}, "resource.name"),
        ({"name": "a-"}, "resource.name"),
        ({"network": "default"}, "resource.network"),
        ({"denied": SSH}, "Exactly one"),
        ({"allowed": []}, "Exactly one"),
        ({"allowed": [{"IPProtocol": "TCPX"}]}, "resource.allowed[0].IPProtocol"),
        ({"allowed": [{"IPProtocol": "icmp", "ports": ["1"]}]}, "Ports may not be specified"),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["65536"]}]}, "resource.allowed[0].ports[0]"),
        ({"allowed": [{"IPProtocol": "tcp", "ports": ["2-1"]}]}, "resource.allowed[0].ports[0]"),
        ({"sourceRanges": ["10.0.0.1/8"]}, "resource.sourceRanges[0]"),
        ({"sourceRanges": ["10.0.0.0/8", "::/0"]}, "IPv4 and IPv6"),
        ({"sourceRanges": [f"10.0.{a}.{b}/32" for a in range(20) for b in range(251)]}, "maximum number of ranges"),
        ({"targetTags": ["Robot"]}, "resource.targetTags[0]"),
        ({"targetTags": [f"t{number}" for number in range(71)]}, "The maximum number is 70"),
        ({"priority": 65536}, "resource.priority"),
        ({"priority": -1}, "resource.priority"),
        (
            {"targetTags": ["a"], "sourceServiceAccounts": ["a@b.iam.gserviceaccount.com"]},
            "both tags and service accounts",
        ),
        ({"direction": "EGRESS", "sourceRanges": ["10.0.0.0/8"]}, "Not supported for EGRESS"),
        ({"logConfig": {"enable": True, "metadata": "ALL"}}, "resource.logConfig.metadata"),
        ({"sourceRange": ["10.0.0.0/8"]}, "Unknown name"),
    ],
)
def test_what_the_api_refuses_is_refused(ask: Ask, rule: dict[str, Any], words: str) -> None:
    error = made(ask, **rule)
    assert error["code"] == 400
    assert words in error["message"]
    assert error["errors"] == [{"domain": "global", "reason": "invalid", "message": error["message"]}]
    assert "items" not in ask("GET", FIREWALLS).json()


def test_a_network_that_is_not_there_is_not_found(ask: Ask) -> None:
    error = made(ask, network="global/networks/nowhere")
    assert (error["code"], error["errors"][0]["reason"]) == (404, "notFound")


@pytest.mark.parametrize("change", [{"network": "global/networks/other"}, {"direction": "EGRESS"}, {"name": "other"}])
def test_what_cannot_be_changed_is_refused(compute_api: Api, ask: Ask, change: dict[str, str]) -> None:
    compute_api.put("projects/demo/global/networks/other", {})
    made(ask)
    answer = ask("PATCH", f"{FIREWALLS}/ssh", json=change)
    assert answer.status_code == 400
    assert "cannot be changed" in answer.json()["error"]["message"]


def test_a_list_comes_in_pages_and_can_be_filtered(compute_api: Api, ask: Ask) -> None:
    for number in range(5):
        compute_api.put(f"{FIREWALLS}/r{number}", {"allowed": SSH})
    found, token = [], ""
    for _ in range(3):
        page = ask("GET", FIREWALLS, params={"maxResults": 2, "pageToken": token}).json()
        found.append([rule["name"] for rule in page["items"]])
        token = page.get("nextPageToken", "")
    assert (found, token) == ([["r0", "r1"], ["r2", "r3"], ["r4"]], "")
    some = ask("GET", FIREWALLS, params={"filter": "name eq r[13]"}).json()["items"]
    assert [rule["name"] for rule in some] == ["r1", "r3"]
    assert ask("GET", FIREWALLS, params={"filter": "name ="}).status_code == 400
    assert ask("GET", FIREWALLS, params={"maxResults": 501}).status_code == 400


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("", True),
        ("labels.roverwatch = robot", True),
        ("labels.roverwatch = hub", False),
        ("labels.roverwatch != hub", True),
        ("labels.roverwatch:*", True),
        ("labels.site:*", False),
        ("labels.roverwatch:rob", True),
        ('status = "RUNNING"', True),
        ("name = r*", True),
        ("name eq r", False),
        ("name ne r", True),
        ("(labels.roverwatch = hub) OR (labels.roverwatch = robot)", True),
        ("labels.roverwatch = robot AND status = STOPPED", False),
        ("(status = RUNNING) (name = x)", False),
        ("NOT labels.site:*", True),
    ],
)
def test_filters_choose_as_the_api_does(text: str, right: bool) -> None:
    assert matches(text, {"name": "r1", "status": "RUNNING", "labels": {"roverwatch": "robot"}}) is right


@pytest.mark.parametrize("text", ["name =", "(name = x", "name = x)", "name x"])
def test_filters_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ApiError, match="Invalid list filter"):
        matches(text, {})


def test_faults_are_as_many_as_were_asked_for_and_recorded(compute_api: Api, ask: Ask) -> None:
    compute_api.fail("GET", "*/firewalls", status=429, times=2)
    assert [ask("GET", FIREWALLS).status_code for _ in range(3)] == [429, 429, 200]
    assert [(one.method, one.path, one.status) for one in compute_api.requests[:1]] == [("GET", FIREWALLS, 429)]
    compute_api.fail("POST", status=503, in_operation=True)
    operation = ask("POST", FIREWALLS, json={"name": "ssh", "allowed": SSH}).json()
    ended = ask("GET", f"projects/demo/global/operations/{operation['name']}").json()
    assert (ended["status"], ended["error"]["errors"][0]["code"]) == ("DONE", "BACKENDERROR")
    assert ask("GET", f"{FIREWALLS}/ssh").status_code == 404
    compute_api.fail(status=0)
    with pytest.raises(requests.ConnectionError):
        ask("GET", FIREWALLS)
    assert len(compute_api.writes) == 1


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", FIREWALLS, "'compute.firewalls.list' permission for 'projects/demo'"),
        ("GET", f"{FIREWALLS}/ssh", f"'compute.firewalls.get' permission for '{FIREWALLS}/ssh'"),
        ("POST", FIREWALLS, f"'compute.firewalls.create' permission for '{FIREWALLS}/new'"),
        ("PATCH", f"{FIREWALLS}/ssh", f"'compute.firewalls.update' permission for '{FIREWALLS}/ssh'"),
        ("DELETE", f"{FIREWALLS}/ssh", f"'compute.firewalls.delete' permission for '{FIREWALLS}/ssh'"),
        (
            "DELETE",
            f"{FIREWALLS}/ssh",
            "'compute.networks.updatePolicy' permission for 'projects/demo/global/networks/default'",
        ),
    ],
)
def test_a_missing_permission_is_named(compute_api: Api, ask: Ask, method: str, path: str, message: str) -> None:
    made(ask)
    compute_api.deny(message.split("'")[1])
    answer = ask(method, path, json={"name": "new", "allowed": SSH})
    assert answer.status_code == 403
    assert answer.json()["error"]["message"] == f"Required {message}"


def test_a_project_and_a_token_that_are_none_are_refused(ask: Ask) -> None:
    assert ask("GET", "projects/nowhere/global/firewalls").status_code == 404
    answer = ask("GET", FIREWALLS, headers={"Authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()["error"]["status"]) == (401, "UNAUTHENTICATED")


def test_no_other_host_is_reached(compute_api: Api, ask: Ask) -> None:
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get("https://example.com", timeout=5)
    assert compute_api.refused_hosts == ["example.com"]


def test_a_service_account_logs_in_with_its_own_key_alone(compute_api: Api, ask: Ask) -> None:
    def status(file: Path) -> int:
        key: Any = Credentials.from_service_account_file
        session: Any = AuthorizedSession
        answer: requests.Response = session(key(str(file)).with_scopes(["compute"])).get(BASE + FIREWALLS)
        return answer.status_code

    file = service_account(compute_api)
    assert status(file) == 200
    other = file.with_name("other.json")
    other.write_bytes(file.read_bytes())
    service_account(compute_api)  # with a new key
    with pytest.raises(google.auth.exceptions.RefreshError):
        status(other)
    assert compute_api.requests[-1].body is None


def test_a_collection_of_ones_own(tmp_path: Path) -> None:
    class Things(Collection):
        name = "things"
        kind = "compute#thing"
        scope = "zones"
        aggregated = True

        def insert(self, where: Where, body: dict[str, Any]) -> dict[str, Any]:
            return {**body, "size": 1}

        def appears(self, resource: dict[str, Any]) -> dict[str, Any]:
            return {**resource, "status": "STAGING"}

        def settled(self, resource: dict[str, Any]) -> dict[str, Any]:
            return {**resource, "status": "RUNNING"}

        def verb(self, where: Where, current: dict[str, Any], verb: str, body: Any, query: Any) -> dict[str, Any]:
            return {**current, "size": current["size"] + body["by"]}

    with served(tmp_path) as api:
        api.register(Things(api))
        path = "projects/demo/zones/europe-west1-b/things"

        def do(method: str, path: str, body: Any = None) -> dict[str, Any]:
            return api.answer(method, path, {}, body or {}, None)

        operation = do("POST", path, {"name": "x"})
        assert operation["zone"].endswith("/zones/europe-west1-b")
        seen = itertools.takewhile(
            lambda status: status != "RUNNING", (do("GET", f"{path}/x")["status"] for _ in range(9))
        )
        assert set(seen) == {"STAGING"}
        grow = do("POST", f"{path}/x/grow", {"by": 2})
        do("GET", f"projects/demo/zones/europe-west1-b/operations/{grow['name']}")
        assert do("GET", f"{path}/x")["size"] == 3
        items = do("GET", "projects/demo/aggregated/things")["items"]
        assert [thing["name"] for thing in items["zones/europe-west1-b"]["things"]] == ["x"]
        assert items["zones/us-central1-a"]["warning"]["code"] == "NO_RESULTS_ON_PAGE"
        with pytest.raises(ApiError, match="zones/nowhere-1-a"):
            do("GET", "projects/demo/zones/nowhere-1-a/things")
