"""roverwatch-firewall with the real nft, in a network of its own: what is tried comes back unless it is confirmed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.roverwatch.fleet.plugins.action.host_firewall import NOTHING_TRIED
from networks import Space

TOOL = Path(__file__).resolve().parents[3] / "roles" / "host_firewall" / "files" / "roverwatch-firewall"
NO_TABLE = "table inet roverwatch {}\ndelete table inet roverwatch\n"

# Each writes down that it was called; a file in $FAKE makes it fail.
STAND_INS = {
    "systemd-run": '[ ! -e "$FAKE/no-timers" ] || { echo "no bus" >&2; exit 1; }\n',
    "systemctl": "",
    "logger": "cat > /dev/null\n",
    "nft": '[ ! -e "$FAKE/no-load" ] || [ "${2##*.}" != tried ] || { echo "no memory" >&2; exit 1; }\n'
    'exec "$NFT" "$@"\n',
}


def table(name: str) -> str:
    """Rules that can be told from others."""
    chain = f"type filter hook prerouting priority mangle\ncounter name allow-{name}"
    return f"{NO_TABLE}table inet roverwatch {{\ncounter allow-{name} {{}}\nchain x {{\n{chain}\n}}\n}}\n"


class Machine:
    """A root directory and a network; `boot` gives it a new network and an empty /run."""

    def __init__(self, directory: Path, nft_program: str) -> None:
        self.root, self.fake, programs = directory / "root", directory / "fake", directory / "programs"
        self.kept = self.root / "etc/roverwatch/firewall.nft"
        self.metrics = self.root / "var/lib/roverwatch/textfile/roverwatch_firewall.prom"
        self.metrics.parent.mkdir(parents=True)
        self.fake.mkdir()
        programs.mkdir()
        for name, text in STAND_INS.items():
            (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "$FAKE/calls"\n{text}')
            (programs / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "FAKE": str(self.fake),
            "NFT": nft_program,
            "ROVERWATCH_ROOT": str(self.root),
        }
        self.space = Space()

    def command(self, *arguments: object) -> list[str]:
        return self.space.command("sh", TOOL, *arguments)

    def tool(self, *arguments: object, stdin: str = "") -> tuple[int, str]:
        done = subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, text=True, env=self.environment, check=False
        )
        return done.returncode, done.stderr

    def must(self, *arguments: object, stdin: str = "") -> None:
        assert self.tool(*arguments, stdin=stdin) == (0, "")

    def rules(self) -> str:
        """The name of the rules that are in force, "" without any."""
        counters = [line for line in self.space.listed().splitlines() if line.startswith("\tcounter allow-")]
        return "".join(line.split()[1].removeprefix("allow-") for line in counters)

    def keep(self, name: str) -> None:
        self.must("try", 60, stdin=table(name))
        self.must("confirm")
        self.calls()

    def calls(self) -> list[str]:
        """What was called since the last time."""
        path = self.fake / "calls"
        found = path.read_text().splitlines() if path.exists() else []
        path.write_text("")
        return found

    def armed(self) -> list[str]:
        """The names of the timers that were set."""
        return [call.split("--unit=")[1].split()[0] for call in self.calls() if call.startswith("systemd-run")]

    def boot(self) -> None:
        self.space.close()
        shutil.rmtree(self.root / "run")
        self.space = Space()


@pytest.fixture
def machine(tmp_path: Path, nft: Path) -> Iterator[Machine]:
    found = Machine(tmp_path, str(nft / "nft"))
    yield found
    found.space.close()


def test_the_rules_that_are_kept_are_loaded_when_the_machine_starts(machine):
    machine.keep("old")
    machine.boot()
    assert machine.rules() == ""
    machine.must("load")
    assert machine.rules() == "old"


def test_without_any_that_are_kept_there_is_no_table(machine):
    machine.space.load(table("left-over"))
    machine.must("load")
    assert machine.space.listed() == ""


def test_what_is_tried_has_a_deadline_before_it_is_loaded_and_is_not_kept(machine):
    machine.keep("old")
    machine.must("try", 45, stdin=table("new"))
    assert machine.rules() == "new"
    assert machine.kept.read_text() == table("old")
    calls = machine.calls()
    (armed,) = [call for call in calls if call.startswith("systemd-run")]
    for word in ("--on-active=45 ", "--timer-property=AccuracySec=1s", "/usr/local/sbin/roverwatch-firewall revert "):
        assert word in armed
    loaded = [call for call in calls if call.startswith("nft -f")]
    assert calls.index(armed) < calls.index(loaded[0])


def test_rules_that_nft_refuses_change_nothing(machine):
    machine.keep("old")
    rc, said = machine.tool("try", 60, stdin="table inet roverwatch { chain x { nonsense } }")
    assert (rc, machine.rules(), machine.armed()) == (1, "old", [])
    assert "nonsense" in said
    assert "nothing was changed" in said
    assert machine.tool("confirm")[0] == NOTHING_TRIED


def test_without_a_deadline_nothing_is_tried(machine):
    machine.keep("old")
    (machine.fake / "no-timers").touch()
    rc, said = machine.tool("try", 60, stdin=table("new"))
    assert (rc, machine.rules()) == (1, "old")
    assert "no bus" in said
    assert machine.tool("confirm")[0] == NOTHING_TRIED


def test_rules_that_cannot_be_loaded_after_all_leave_those_before_and_no_deadline(machine):
    machine.keep("old")
    (machine.fake / "no-load").touch()
    rc, said = machine.tool("try", 60, stdin=table("new"))
    assert (rc, machine.rules()) == (1, "old")
    assert "those before are in force" in said
    calls = machine.calls()
    (timer,) = [call.split("--unit=")[1].split()[0] for call in calls if call.startswith("systemd-run")]
    assert f"systemctl stop {timer}.timer" in calls
    assert machine.tool("confirm")[0] == NOTHING_TRIED


def test_what_is_confirmed_is_kept_to_the_letter_and_has_no_deadline(machine):
    machine.must("try", 60, stdin=table("new"))
    (timer,) = machine.armed()
    machine.must("confirm")
    assert machine.kept.read_text() == table("new")
    assert machine.kept.stat().st_mode & 0o777 == 0o644
    assert machine.calls() == [f"systemctl stop {timer}.timer"]
    assert [path.name for path in machine.kept.parent.iterdir()] == ["firewall.nft"]
    machine.must("revert", timer)
    assert machine.rules() == "new", "a deadline that comes too late changes nothing"


def test_a_deadline_that_passes_brings_the_rules_before_back(machine):
    machine.keep("old")
    machine.must("try", 60, stdin=table("new"))
    (timer,) = machine.armed()
    machine.must("revert", timer)
    assert machine.rules() == "old"
    assert f"systemctl stop {timer}.timer" in machine.calls()
    rc, said = machine.tool("confirm")
    assert rc == NOTHING_TRIED
    assert "gone back" in said
    assert machine.kept.read_text() == table("old")


def test_the_first_rules_of_a_machine_go_back_to_none(machine):
    machine.must("try", 60, stdin=table("new"))
    machine.must("revert", *machine.armed())
    assert machine.space.listed() == ""
    assert not machine.kept.exists()


def test_rules_that_are_removed_come_back_too(machine):
    machine.keep("old")
    machine.must("try", 60, stdin=NO_TABLE)
    assert machine.rules() == ""
    machine.must("revert", *machine.armed())
    assert machine.rules() == "old"


def test_a_deadline_that_cannot_act_leaves_all_to_its_next_try(machine):
    machine.keep("old")
    machine.must("try", 60, stdin=table("new"))
    (timer,) = machine.armed()
    machine.kept.write_text("nonsense")
    rc, _ = machine.tool("revert", timer)
    assert rc != 0
    assert not [call for call in machine.calls() if call.startswith("systemctl")]
    machine.kept.write_text(table("old"))
    machine.must("revert", timer)
    assert machine.rules() == "old"


def test_a_second_try_replaces_the_first_and_its_deadline(machine):
    machine.keep("old")
    machine.must("try", 60, stdin=table("first"))
    (first,) = machine.armed()
    machine.must("try", 60, stdin=table("second"))
    calls = machine.calls()
    (armed,) = [call for call in calls if call.startswith("systemd-run")]
    assert calls.index(armed) < calls.index(f"systemctl stop {first}.timer"), "there is always a deadline"
    machine.must("revert", first)
    assert machine.rules() == "second"
    machine.must("confirm")
    assert machine.kept.read_text() == table("second")


def test_a_restart_before_the_confirmation_comes_back_with_the_rules_before(machine):
    machine.keep("old")
    machine.must("try", 600, stdin=table("new"))
    machine.boot()
    machine.must("load")
    assert machine.rules() == "old"
    assert machine.tool("confirm")[0] == NOTHING_TRIED


def test_what_is_tried_is_loaded_again_where_another_tool_has_flushed_all(machine):
    machine.keep("old")
    machine.must("try", 60, stdin=table("new"))
    machine.space.run("nft", "flush", "ruleset")
    machine.must("load")
    assert machine.rules() == "new"


@pytest.mark.parametrize("attempt", range(6))
def test_a_deadline_that_passes_during_the_confirmation_comes_before_it_or_after_it(machine, attempt):
    machine.keep("old")
    machine.must("try", 60, stdin=table("new"))
    orders = [machine.command("confirm"), machine.command("revert", *machine.armed())]
    first, second = orders if attempt % 2 else reversed(orders)
    with contextlib.ExitStack() as stack:
        both = {
            command[-1]: stack.enter_context(
                subprocess.Popen(command, env=machine.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            for command in (first, second)
        }
        codes = {name: process.wait() for name, process in both.items()}
    won = "new" if codes.pop("confirm") == 0 else "old"
    assert machine.rules() == won
    assert machine.kept.read_text() == table(won)
    assert set(codes.values()) == {0}


def test_no_other_table_is_touched(machine):
    machine.space.load("table ip theirs {\nchain keep {\n}\n}\n")
    machine.keep("old")
    machine.must("try", 60, stdin=table("new"))
    machine.must("revert")
    machine.must("load")
    assert "table ip theirs {\n\tchain keep {" in machine.space.listed()


def test_what_the_rules_have_counted_becomes_metrics(machine):
    rules = "counter allow-a-b { packets 3 bytes 180 }\ncounter deny-a-b {}\ncounter deny { packets 1 bytes 60 }\n"
    machine.space.load(f"{NO_TABLE}table inet roverwatch {{\n{rules}}}\n")
    machine.must("metrics")
    assert machine.metrics.read_text() == (
        "# HELP roverwatch_firewall_packets_total Packets that a rule let in or dropped.\n"
        "# TYPE roverwatch_firewall_packets_total counter\n"
        'roverwatch_firewall_packets_total{rule="a-b",action="accept"} 3\n'
        'roverwatch_firewall_packets_total{rule="a-b",action="drop"} 0\n'
        'roverwatch_firewall_packets_total{rule="deny",action="drop"} 1\n'
        "# HELP roverwatch_firewall_bytes_total Bytes that a rule let in or dropped.\n"
        "# TYPE roverwatch_firewall_bytes_total counter\n"
        'roverwatch_firewall_bytes_total{rule="a-b",action="accept"} 180\n'
        'roverwatch_firewall_bytes_total{rule="a-b",action="drop"} 0\n'
        'roverwatch_firewall_bytes_total{rule="deny",action="drop"} 60\n'
    )
    assert machine.metrics.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in machine.metrics.parent.iterdir()] == [machine.metrics.name]


def test_without_the_table_no_series_is_left(machine):
    machine.must("metrics")
    assert [line for line in machine.metrics.read_text().splitlines() if not line.startswith("#")] == []


@pytest.mark.parametrize("arguments", [(), ("flush",), ("try",), ("try", "0"), ("load", "this")])
def test_anything_else_is_answered_with_how_it_is_used(machine, arguments):
    rc, said = machine.tool(*arguments)
    assert rc == 2
    assert "roverwatch-firewall try SECONDS" in said
