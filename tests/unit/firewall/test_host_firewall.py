"""The two halves of `host_firewall`: what the robot's looks at and changes, and when the controller's confirms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.roverwatch.fleet.plugins.action import host_firewall as action
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import systemd, units
from ansible_collections.roverwatch.fleet.plugins.modules import host_firewall as module

NEW, OLD = "table inet roverwatch { new }\n", "table inet roverwatch { old }\n"


def listing(table: str) -> str:
    return f"listed: {table}"


# --- the robot's half


class Robot:
    """A robot's answers; `files` are below a directory, and what is run is written down."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.kept, self.tool = directory / "firewall.nft", directory / "roverwatch-firewall"
        for name, path in {
            "KEPT": self.kept,
            "TOOL": self.tool,
            "RUN": directory / "run",
            "TEXTFILE": directory / "firewall.prom",
            "PROC": directory / "proc",
            "DROP_IN": directory / "units/nftables.service.d/roverwatch.conf",
        }.items():
            patch.setattr(module, name, path)
        patch.setattr(units, "UNITS", directory / "units")
        patch.setattr(systemd, "show_many", lambda names, _: dict.fromkeys(names, self.state))
        patch.setattr(
            module.shutil, "which", lambda program: None if program in self.missing else f"/usr/sbin/{program}"
        )
        self.port_range = directory / "proc/sys/net/ipv4/ip_local_port_range"
        self.port_range.parent.mkdir(parents=True)
        self.port_range.write_text("32768\t60999\n")
        patch.setattr(module, "ssh_connection", lambda *_: self.connection)
        self.state = {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
        self.connection: tuple[str, int] | None = ("192.0.2.7", 22)
        self.kernel = ""
        self.missing: set[str] = set()
        self.broken: set[str] = set()
        self.calls: list[str] = []

    def run_command(
        self, command: list[str], data: str | None = None, binary_data: bool = False
    ) -> tuple[int, str, str]:
        line = " ".join(command)
        assert data is None or binary_data, "a newline would be added"
        self.calls.append(line)
        answers: dict[str, Callable[[], str]] = {
            "nft list tables": lambda: "table ip theirs\n" + "table inet roverwatch\n" * bool(self.kernel),
            "nft -s list table inet roverwatch": lambda: self.kernel,
            "unshare --net sh -c nft -f - && nft -s list ruleset": lambda: listing(data or ""),
            "ss -Hltunp": lambda: 'tcp LISTEN 0 5 0.0.0.0:9999 0.0.0.0:* users:(("python3",pid=1,fd=3))\n',
        }
        if any(line.startswith(broken) for broken in self.broken):
            return 1, "", "it does not"
        return 0, answers.get(line, str)(), ""

    def ask(self, table: str = NEW, check: bool = False, **options: Any) -> dict[str, Any]:
        self.calls = []
        files = [{"path": str(self.tool), "content": "#!/bin/sh\n", "mode": "0755"}]
        params = {"table": table, "ssh_port": 22, "confirm_seconds": 60, "files": files} | options
        fake = SimpleNamespace(params=params, check_mode=check, run_command=self.run_command)
        found: dict[str, Any] = module.HostFirewall(fake).present()
        return found

    def remove(self, check: bool = False) -> bool:
        self.calls = []
        fake = SimpleNamespace(params={}, check_mode=check, run_command=self.run_command)
        return bool(module.HostFirewall(fake).absent()["changed"])

    def converge(self, table: str = NEW) -> None:
        """As if this were kept and in force."""
        self.ask(table)
        self.kept.write_text(table)
        self.kernel = listing(table)

    def tried(self) -> list[str]:
        return [call for call in self.calls if call.startswith(f"{self.tool} try")]

    def changes(self) -> list[str]:
        looks = ("nft list", "nft -s list", "unshare", "ss ", "systemctl --quiet is-active")
        return [call for call in self.calls if not call.startswith(looks)]


@pytest.fixture
def robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Robot:
    return Robot(tmp_path, monkeypatch)


def test_a_machine_without_the_rules_gets_the_tool_and_tries_them(robot):
    found = robot.ask()
    assert (found["changed"], found["trying"], found["client"]) == (True, True, "192.0.2.7")
    assert robot.tried() == [f"{robot.tool} try 60"]
    assert robot.tool.stat().st_mode & 0o777 == 0o755
    assert not robot.kept.exists(), "the tool keeps them, once they are confirmed"
    assert found["listening"] == [{"port": 9999, "protocol": "tcp", "program": "python3"}]


def test_a_machine_that_has_the_rules_is_only_looked_at(robot):
    robot.converge()
    found = robot.ask()
    assert (found["changed"], found["trying"], found["diff"]) == (False, False, [])
    assert robot.changes() == []
    assert "ss -Hltunp" not in robot.calls


@pytest.mark.parametrize("kernel", ["", listing(OLD)])
def test_a_table_that_somebody_changed_or_flushed_is_repaired(robot, kernel):
    robot.converge()
    robot.kernel = kernel
    found = robot.ask()
    assert (found["changed"], found["trying"]) == (True, True)
    assert [(diff["before"], diff["after"]) for diff in found["diff"]] == [(kernel, listing(NEW))]


def test_rules_that_were_tried_and_never_confirmed_are_tried_again(robot):
    robot.converge(OLD)
    robot.kernel = listing(NEW)
    assert robot.ask()["trying"]


def test_check_mode_shows_what_would_change_and_changes_nothing(robot):
    robot.converge(OLD)
    found = robot.ask(check=True)
    assert (found["changed"], found["trying"], robot.changes()) == (True, False, [])
    assert [(diff["before"], diff["after"]) for diff in found["diff"]] == [(OLD, NEW)]


def test_check_mode_does_not_need_the_package_that_comes_first(robot):
    robot.missing = {"nft", "ss"}
    found = robot.ask(check=True)
    assert (found["changed"], found["listening"], robot.changes()) == (True, [], [])
    assert not robot.tool.exists()
    assert found["diff"][0] == {"prepared": "package nftables: to be installed\n"}
    assert robot.ask() == {"changed": False, "missing": True}
    assert robot.changes() == []


@pytest.mark.parametrize(
    ("state", "done"),
    [
        ({"ActiveState": "inactive"}, "systemctl enable --quiet --now roverwatch-firewall.service"),
        ({"UnitFileState": "disabled"}, "systemctl enable --quiet --now roverwatch-firewall.service"),
    ],
)
def test_units_that_do_not_run_are_started_and_the_rules_are_left_alone(robot, state, done):
    robot.converge()
    robot.state = {**robot.state, **state}
    found = robot.ask()
    assert (found["changed"], found["trying"]) == (True, False)
    assert [call for call in robot.changes() if call.startswith(done)]


def test_a_tool_that_differs_is_replaced_and_systemd_reads_the_units(robot):
    robot.converge()
    robot.tool.write_text("old")
    found = robot.ask()
    assert (found["changed"], found["trying"]) == (True, False)
    assert robot.changes() == ["systemctl daemon-reload", "systemctl restart roverwatch-firewall-metrics.timer"]
    assert robot.tool.read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize("check", [False, True])
def test_an_ssh_server_on_another_port_is_refused_before_anything_is_tried(robot, check):
    robot.connection = ("192.0.2.7", 2222)
    with pytest.raises(module.Refused, match=r"host_firewall_ssh_port is 22.* port 2222.*host_firewall_ssh_port: 2222"):
        robot.ask(check=check)
    assert robot.changes() == []
    assert robot.ask(ssh_port=2222)["trying"]


def test_a_kernel_that_does_not_take_the_rules_says_what_it_needs(robot):
    robot.broken = {"unshare"}
    with pytest.raises(module.Refused, match=r"CONFIG_NFT_FIB_INET(.|\n)*it does not"):
        robot.ask()
    assert robot.changes() == []


def test_a_try_that_fails_is_said_in_the_tools_words(robot):
    robot.broken = {f"{robot.tool} try"}
    with pytest.raises(module.Refused, match="it does not"):
        robot.ask()


def test_a_firewall_that_runs_beside_is_seen(robot):
    assert robot.ask()["other_firewalls"] == ["firewalld"]
    robot.broken = {"systemctl --quiet is-active firewalld"}
    assert robot.ask()["other_firewalls"] == []


def test_all_is_removed_once(robot):
    robot.converge()
    (robot.directory / "run").mkdir()
    loader, drop_in = robot.directory / "units" / module.LOADER, module.DROP_IN
    for path in (loader, drop_in, robot.directory / "run/firewall.lock", robot.directory / "firewall.prom"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert robot.remove(check=True)
    assert robot.changes() == []
    assert loader.exists()
    assert robot.remove()
    stopped, disabled, deleted, reloaded = robot.changes()
    assert stopped == "systemctl stop roverwatch-firewall-deadline-*.timer"
    assert (disabled, reloaded) == (
        "systemctl disable --quiet --now roverwatch-firewall.service",
        "systemctl daemon-reload",
    )
    assert deleted == "nft delete table inet roverwatch"
    robot.kernel = ""
    assert not [path for path in (loader, drop_in.parent, robot.tool, robot.kept) if path.exists()]
    assert list((robot.directory / "run").iterdir()) == []
    assert not robot.remove()
    assert robot.changes() == []


def test_a_machine_that_never_had_it_is_not_changed(robot):
    robot.missing = {"nft"}
    assert not robot.remove()
    assert robot.calls == []


def test_another_file_beside_the_drop_in_stays(robot):
    other = module.DROP_IN.with_name("operator.conf")
    other.parent.mkdir(parents=True)
    other.touch()
    module.DROP_IN.touch()
    assert robot.remove()
    assert other.exists()


def process(proc: Path, pid: int, parent: int, environment: bytes) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "environ").write_bytes(environment)
    (folder / "stat").write_text(f"{pid} (a) b) S {parent} 0 0")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        (b"A=1\0SSH_CONNECTION=192.0.2.7 50122 10.0.0.1 2222\0", ("192.0.2.7", 2222)),
        (b"SSH_CONNECTION=fe80::1%eth0 50122 fe80::2 22\0", ("fe80::1%eth0", 22)),
        (b"NOT_SSH_CONNECTION=192.0.2.7 50122 10.0.0.1 2222\0", None),
        (b"SSH_CONNECTION=UNKNOWN 65535 UNKNOWN 65535\0", None),
        (b"", None),
    ],
)
def test_the_ssh_connection_is_found_above_sudo(tmp_path, environment, found):
    process(tmp_path, 30, 20, b"HOME=/root\0")
    process(tmp_path, 20, 10, environment)
    process(tmp_path, 10, 1, b"")
    assert module.ssh_connection(tmp_path, 30) == found


def test_a_process_that_has_just_ended_is_no_error(tmp_path):
    process(tmp_path, 30, 20, b"")
    assert module.ssh_connection(tmp_path, 30) is None


LISTED = """\
udp   UNCONN 0      0      0.0.0.0:5353       0.0.0.0:*    users:(("avahi-daemon",pid=1,fd=12))
udp   UNCONN 0      0      192.168.1.5%eth0:68 0.0.0.0:*   users:(("systemd-network",pid=1,fd=19))
udp   UNCONN 0      0      0.0.0.0:40001      0.0.0.0:*    users:(("avahi-daemon",pid=1,fd=14))
tcp   LISTEN 0      128    0.0.0.0:40001      0.0.0.0:*
tcp   LISTEN 0      4096   127.0.0.53%lo:53   0.0.0.0:*    users:(("systemd-resolve",pid=1,fd=14))
tcp   LISTEN 0      4096   *:8000             *:*          users:(("conmon",pid=1,fd=5),("conmon",pid=2,fd=5))
tcp   LISTEN 0      128    [::1]:631          [::]:*       users:(("cupsd",pid=1,fd=6))
tcp   LISTEN 0      128    [::ffff:127.0.0.1]:8081 *:*     users:(("java",pid=1,fd=6))
tcp   LISTEN 0      128    [fe80::1]%eth0:22  [::]:*       users:(("sshd",pid=1,fd=4))
"""


def test_what_others_can_reach_is_told_from_what_is_the_machines_own():
    assert [str(listener) for listener in module.listeners(LISTED, 32768)] == [
        "5353/udp (avahi-daemon)", "68/udp (systemd-network)", "40001/tcp", "8000/tcp (conmon)", "22/tcp (sshd)",
    ]  # fmt: skip


# --- the controller's half

RULES = [
    {"name": "metrics", "groups": ["robots"], "ports": [9100], "sources": ["10.0.0.0/8"]},
    {"name": "gateway", "groups": ["hubs"], "ports": [8427], "sources": []},
    {"name": "ssh", "groups": ["robots"], "ports": [22], "sources": ["192.0.2.0/24"]},
]
ANSWER = {
    "changed": True, "trying": True, "diff": [], "client": "198.51.100.1", "other_firewalls": [],
    "listening": [{"port": 9999, "protocol": "tcp", "program": "python3"}],
}  # fmt: skip
NO_WAY_IN = AnsibleConnectionFailure("Connection timed out")


class Controller:
    """Runs the action; a clock that only its sleep moves on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.options = {"ssh_args": "-o ControlPersist=60s"}
        self.used: list[tuple[str, str]] = []
        self.closed = 0
        self.now = 0.0
        self.said: list[str] = []
        self.transport = "ssh"
        self.missing = self.still_missing = False
        self.apt: dict[str, Any] = {}
        self.variables: dict[str, Any] = {}
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        patch.setattr(action, "time", clock)
        patch.setattr(action, "tell", lambda text, color: self.said.append(text))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def close(self) -> None:
        self.closed += 1

    def ran(
        self,
        confirms: list[object] | None = None,
        answer: dict[str, Any] | None = None,
        check: bool = False,
        **args: Any,
    ) -> dict[str, Any]:
        confirms = [] if confirms is None else confirms

        def confirm(command: str) -> dict[str, Any]:
            if command.startswith(("dpkg", "apt-get")):
                self.asked.append({"command": command})
                return {"rc": 0, "stderr": "W: Failed to fetch x\n"}
            self.used.append((command, self.options["ssh_args"]))
            found = confirms.pop(0) if len(confirms) > 1 else confirms[0]
            if isinstance(found, Exception):
                raise found
            return {"rc": found, "stdout": "", "stderr": "no space left" if found == 1 else ""}

        def execute(name: str, module_args: dict[str, Any], task_vars: object) -> dict[str, Any]:
            self.asked.append(module_args)
            if name == "ansible.legacy.apt":
                self.missing = self.still_missing
                return {"changed": True} | self.apt
            return {"changed": False, "missing": True} if self.missing else dict(ANSWER if answer is None else answer)

        task = SimpleNamespace(
            args={"rules": RULES, **args}, check_mode=check, async_val=0, diff=False, delegate_to=None
        )
        connection = SimpleNamespace(
            _shell=SimpleNamespace(tmpdir="/nowhere"),
            transport=self.transport,
            get_option=self.options.get,
            set_option=self.options.__setitem__,
            close=self.close,
        )
        plugin = action.ActionModule(task, connection, None, None, Templar(DataLoader()), None)
        plugin._execute_module = execute
        plugin._low_level_execute_command = confirm
        variables = {
            "inventory_hostname": "robot-1",
            "groups": {"robots": ["robot-1"], "hubs": [], "all": ["robot-1"]},
            "group_names": ["robots"],
            **self.variables,
        }
        found: dict[str, Any] = plugin.run(task_vars=variables)
        return found


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    return Controller(monkeypatch)


def test_a_service_that_moved_leaves_its_port_to_whoever_has_it_now(controller):
    controller.variables = {"sensor_service_port": 8010, "sensor_service_instances": 2}
    controller.ran([0])
    closed = "tcp dport { 8010, 8011, 8428, 8429, 9100 } counter name deny-deny-services drop"
    assert closed in controller.asked[0]["table"]


def test_a_machine_without_the_package_gets_it_first(controller):
    controller.missing = True
    assert controller.ran([0])["changed"]
    before, interrupted, lists, package, after = controller.asked
    assert before == after
    assert interrupted == {"command": "dpkg --configure --pending"}
    assert lists == {"command": "apt-get update --quiet"}
    # A source that is broken would be an error of the module's own update, whoever's it is.
    assert package == {"name": "nftables", "install_recommends": False}


def test_a_machine_that_cannot_have_the_package(controller):
    controller.missing = controller.still_missing = True
    assert controller.ran()["msg"] == "robot-1: nftables is installed, and nft is not on the PATH: it is /usr/sbin/nft"
    controller.apt = {"failed": True, "msg": "No package matching"}
    controller.asked = []
    controller.missing = True
    found = controller.ran()
    assert (found["failed"], len(controller.asked)) == (True, 4)
    assert found["msg"].startswith("robot-1: nftables cannot be installed: No package matching Package sources that do")
    assert "W: Failed to fetch x" in found["msg"]


def test_the_machine_gets_the_rules_of_its_groups_and_the_tool(controller):
    controller.ran([0])
    (asked,) = controller.asked
    assert "allow-metrics" in asked["table"]
    assert "gateway" not in asked["table"]
    assert {file["path"]: file["mode"] for file in asked["files"]} == {
        "/usr/local/sbin/roverwatch-firewall": "0755",
        "/etc/systemd/system/roverwatch-firewall.service": "0644",
        "/etc/systemd/system/roverwatch-firewall-metrics.service": "0644",
        "/etc/systemd/system/roverwatch-firewall-metrics.timer": "0644",
        "/etc/systemd/system/nftables.service.d/roverwatch.conf": "0644",
    }
    assert {Path(file["path"]).name for file in asked["files"]} >= {*module.ENABLED, module.METRICS, module.TOOL.name}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"rules": [{**RULES[0], "ports": [0]}]}, ["rule metrics", "out of range"]),
        ({"rules": [{**RULES[0], "groups": ["robotz"]}]}, ["no group robotz"]),
        ({"rules": ["metrics"]}, ["is no rule"]),
        ({"rules": RULES[:2], "default_drop": True}, ["host_firewall_default_drop", "port 22"]),
        ({"confirm_seconds": 5}, ["host_firewall_confirm_seconds is 5"]),
    ],
)
def test_rules_that_are_wrong_are_refused_before_the_machine_is_asked(controller, args, words):
    found = controller.ran(**args)
    assert (found["failed"], found["changed"], controller.asked) == (True, False, [])
    first, *lines = found["msg"].splitlines()
    assert first == "Nothing was changed on robot-1:"
    assert all(line.startswith("- robot-1: ") for line in lines)
    for word in words:
        assert word in found["msg"]


def test_text_from_an_ini_inventory_is_a_port_and_a_switch_too(controller):
    controller.ran([0], ssh_port="22", default_drop="true", confirm_seconds="20")
    (asked,) = controller.asked
    assert (asked["ssh_port"], asked["confirm_seconds"]) == (22, 20)
    assert "counter name deny drop" in asked["table"]


def test_what_is_unchanged_or_only_checked_needs_no_second_connection(controller):
    assert controller.ran(answer={"changed": False, "trying": False, "diff": []})["changed"] is False
    assert controller.ran(answer={**ANSWER, "trying": False}, check=True)["changed"] is True
    assert controller.used == []


def test_what_the_machine_refuses_is_said_with_its_name(controller):
    found = controller.ran(answer={"failed": True, "msg": "nft is not there"})
    assert (found["failed"], found["msg"]) == (True, "robot-1: nft is not there")
    assert controller.ran(answer={"unreachable": True, "msg": "no route"}) == {"unreachable": True, "msg": "no route"}


def test_rules_are_confirmed_over_a_new_connection_and_the_old_one_stays(controller):
    found = controller.ran([0])
    assert found["changed"] is True
    assert "failed" not in found
    assert controller.used == [
        ("/usr/local/sbin/roverwatch-firewall confirm", "-o ControlPath=none -o ControlPersist=60s")
    ]
    assert controller.options == {"ssh_args": "-o ControlPersist=60s"}
    assert controller.closed == 0
    assert controller.said == []


def test_a_connection_of_another_kind_is_closed_and_made_anew(controller):
    controller.transport = "paramiko"
    assert controller.ran([0])["changed"] is True
    assert controller.closed == 1
    assert controller.used[0][1] == "-o ControlPersist=60s"


def test_a_connection_that_fails_once_does_not_lose_the_rules(controller):
    assert controller.ran([NO_WAY_IN, 0])["changed"] is True
    assert len(controller.used) == 2
    assert len(controller.said) == 1


def test_rules_that_keep_the_controller_out_are_a_failure_that_names_them(controller):
    found = controller.ran([NO_WAY_IN, NO_WAY_IN, action.NOTHING_TRIED], confirm_seconds=15)
    assert (found["failed"], found["changed"]) == (True, False)
    for words in (
        "robot-1", "taken back by robot-1 itself after 15 s", "nothing is changed", "ule ssh lets 192.0.2.0/24",
        "198.51.100.1",
    ):  # fmt: skip
        assert words in found["msg"]
    (said,) = controller.said
    assert said.startswith("robot-1: no new connection")
    assert controller.options == {"ssh_args": "-o ControlPersist=60s"}


def test_a_machine_that_never_comes_back_is_unreachable(controller):
    found = controller.ran([NO_WAY_IN], confirm_seconds=15)
    assert found["unreachable"] is True
    for words in ("robot-1", "cannot be reached", "Connection timed out", "roverwatch-firewall revert"):
        assert words in found["msg"]
    assert controller.now > 15 + action.PATIENCE_SECONDS


def test_rules_that_cannot_be_kept_are_a_failure_in_the_tools_words(controller):
    found = controller.ran([1])
    assert (found["failed"], found["changed"]) == (True, False)
    assert "no space left" in found["msg"]


def test_what_will_be_closed_is_a_warning_of_the_run_that_closes_it(controller):
    (warning,) = controller.ran([0], default_drop=True)["warnings"]
    assert "robot-1" in warning
    assert "9999/tcp (python3)" in warning
    assert "warnings" not in controller.ran([0])


@pytest.mark.parametrize(("name", "words"), [("ufw", "ufw allow 9100/tcp"), ("firewalld", "--add-port=9100/tcp")])
def test_another_firewall_is_a_warning_with_what_it_has_to_let_in(controller, name, words):
    (warning,) = controller.ran([0], answer={**ANSWER, "other_firewalls": [name]})["warnings"]
    assert words in warning
    assert name in warning


def test_uninstalling_is_the_machines_own_business(controller):
    assert controller.ran(answer={"changed": True}, state="absent") == {"changed": True}
    assert controller.asked == [{"state": "absent"}]
