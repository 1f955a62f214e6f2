"""Follows a rolling update from outside of its play: who got lost, and how it ended, whatever ended it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rollout
type: aggregate
short_description: Keeps the journal of a rolling update complete, and writes its result
description:
  - Writes a robot that cannot be reached any more into the journal of C(playbooks/rolling_update.yml), since a robot
    that Ansible has given up has no task of its own any more.
  - At the end writes C(result.json) and C(report.html) into the rollout's directory, prints the table of the waves, and
    the outcome with its reason as the last line. A play that ends early, with all its hosts lost, gets there, too.
  - Does nothing in other playbooks.
requirements:
  - Named last in C(callbacks_enabled) of ansible.cfg, so that its line is the last one.
"""

import json
import os
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.callback import CallbackBase
from ansible_collections.roverwatch.fleet.plugins.action.health_report import write_atomically
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.controller.terminal import tell
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.report import plain
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.rollout import claim, journal, page, summary

ACTION = "roverwatch.fleet.rollout"


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "roverwatch.fleet.rollout"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.plan: dict[str, Any] | None = None

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.task.action == ACTION and result.task.args["step"] == "plan" and not result.result["check_mode"]:
            self.plan = result.result

    def v2_runner_on_unreachable(self, result: Any) -> None:
        if self.plan is None or result.task.ignore_unreachable:
            return
        robot = result.host.get_name()
        waves = [wave["number"] for wave in self.plan["waves"] if robot in wave["robots"]]
        until = "not confirmed, it takes the update back by itself"
        self._append(
            robot=robot, phase="unreachable", wave=next(iter(waves), None), to=self.plan["release"],
            reason=f"lost in {result.task.get_name()!r}: {plain.message(result.result)}; {until}",
        )  # fmt: skip

    def v2_playbook_on_stats(self, _stats: Any) -> None:
        if self.plan is None:
            return
        folder = Path(self.plan["directory"])
        lines = journal.read(folder / journal.JOURNAL)
        if journal.of_run(lines, self.plan["run"])[-1]["phase"] != "ended":
            lost = journal.failures(lines, self.plan["run"])
            reason = journal.told(lost) or "the run ended before its last wave; see the messages above"
            self._append(phase="ended", outcome=summary.STOPPED, reason=reason)
            lines = journal.read(folder / journal.JOURNAL)
        claim.disclaim(folder.parent, os.getpid())
        whole = summary.summary(lines)
        write_atomically(folder / "result.json", json.dumps(summary.result(whole), indent=2, ensure_ascii=False) + "\n")
        write_atomically(folder / "report.html", page.draw(whole))
        good = whole["outcome"] == summary.UPDATED
        for line in page.lines(whole):
            colour = {True: C.COLOR_OK, False: C.COLOR_ERROR, None: None}[line.healthy]
            tell(line.text, color=colour)
        tell(f"report: {folder}/report.html")
        tell(summary.sentence(whole), color=C.COLOR_OK if good else C.COLOR_ERROR)

    def _append(self, **line: Any) -> None:
        assert self.plan is not None
        journal.append(Path(self.plan["directory"]) / journal.JOURNAL, {"run": self.plan["run"], **line})
