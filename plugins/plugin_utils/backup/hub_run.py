"""What the action plugins `hub_backup` and `hub_restore` share: the plan, the program, and a run that is followed."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.backup import request
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import from_bytes

from ..controller.terminal import tell
from ..service import delivery, role_variables

POLL_SECONDS = 2


class StepFailed(Exception):
    """A step on the hub failed; `answer` is the result that says why."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer.get("msg"))
        self.answer = answer


class HubRun(ActionBase):
    """One run on one hub. A subclass says which module and which program it is, whose variables it reads,
    and what is done.
    """

    _requires_connection = True
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"store", "version"})
    module = ""
    program = ""
    roles: tuple[str, ...] = ()

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self.variables = task_vars or {}
        self._read_plan()
        try:
            return self.work()
        except StepFailed as failed:
            return failed.answer

    def work(self) -> dict[str, Any]:
        """Do it, and return the task's result. Raises StepFailed."""
        raise NotImplementedError

    def _read_plan(self) -> None:
        self.host = self.variables["inventory_hostname"]
        given, problems = role_variables.read(self, self.roles, self.variables)
        try:
            if problems:
                raise request.PlanError("; ".join(problems))
            self.plan = request.read(given, self.host)
            self.credentials = request.credentials(given["backup_secrets"], self.plan.scheme)
        except request.PlanError as error:
            raise AnsibleActionFail(f"{self.host}: {error}") from error

    def say(self, text: str) -> None:
        tell(f"{self.host}: {text}")

    def step(self, name: str, **args: Any) -> dict[str, Any]:
        """One call of the module on the hub."""
        answer: dict[str, Any] = self._execute_module(
            f"roverwatch.fleet.{self.module}",
            module_args={"step": name, "plan": self.plan.as_dict(), **args},
            task_vars=self.variables,
        )
        if answer.get("failed"):
            raise StepFailed(answer)
        return answer

    def bring(self) -> str:
        """Put the program onto the hub. Its path there."""
        answer = delivery.bring_program(self, self.program, self.variables)
        if answer.get("failed"):
            raise StepFailed(answer)
        path: str = answer["path"]
        return path

    def follow(self) -> dict[str, Any]:
        """Wait for the run to end, and say how far it is whenever there is something new. Its figures."""
        said = None
        while (answer := self.step("poll"))["active"]:
            progress = answer["progress"]
            if progress and progress != said and progress["done"] < progress["total"]:
                said = progress
                self.say(f"{from_bytes(progress['done'])} of {from_bytes(progress['total'])}, {progress['left']} to go")
            time.sleep(POLL_SECONDS)
        figures: dict[str, Any] = answer["figures"]
        return figures
