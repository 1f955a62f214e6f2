"""Runs the tests: the stages of stages.py, a lane of them beside the other, and says what took the time.

    python tests/run.py         what CI runs
    python tests/run.py soak    the same with larger numbers

ONLY=hub,robot in the environment runs these stages alone, CHANGED=1 those that a change can touch. A stage that fails
does not keep the next from running. What a stage says is in .lab/tests/ while it runs, and is printed when it ends; a
lane that is alone prints as it goes.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn
from xml.etree import ElementTree

import stages
from stages import LABS, LANES, ROOT, SHARED_LAB

LOGS = ROOT / ".lab" / "tests"
PREPARE = "prepare"
LONGEST = 10
# How much of a line of progress is shown.
LINE = 100

SAMPLE_SECONDS = 0.25
CONTAINERS_SECONDS = 10.0
PROGRESS_SECONDS = 60.0
# How long the stages have to end when the run is interrupted: Ansible and pytest clean up.
END_SECONDS = 30.0


@dataclass
class Stage:
    """One command of a lane, and how it went."""

    name: str
    command: Sequence[str]
    nice: int = 0
    lab: str = ""
    started: float = 0.0
    seconds: float = 0.0
    # What it computed: here, and on the machines of its lab.
    cpu: float = 0.0
    lab_cpu: float = 0.0
    # The share of its time in which no core had anything to do.
    idle: float = 0.0
    status: int = 0

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name.replace(' ', '_')}.log"

    @property
    def report(self) -> Path:
        """What pytest writes of its tests, if the stage has some."""
        return self.log.with_suffix(".xml")


# --- which commands ----------------------------------------------------------------------------------------


def commands(lane: str, wanted: Iterable[str]) -> list[Stage]:
    """A lane's stages, as far as they are wanted; where they share machines, with what these need before and after."""
    nice = LANES[lane].nice
    made, sharing = [], []
    for name in LANES[lane].stages:
        if name not in wanted:
            continue
        if name not in LABS:
            made.append(Stage(name, ["make", name], nice))
        elif LABS[name] == SHARED_LAB:
            sharing.append(Stage(name, molecule("test", name, "--destroy=never"), nice, SHARED_LAB))
        else:
            made.append(Stage(name, molecule("test", name), nice, LABS[name]))
    if sharing:
        # Bare machines, whatever an interrupted run has left.
        bare = " && ".join(" ".join(molecule(step, "default")) for step in ("destroy", "create"))
        sharing = [
            Stage("machines", ["bash", "-c", bare], nice, SHARED_LAB),
            *sharing,
            Stage("removing the machines", molecule("destroy", "default"), nice, SHARED_LAB),
        ]
    return sharing + made


def molecule(step: str, scenario: str, *options: str) -> list[str]:
    return ["molecule", step, "--no-command-borders", "--scenario-name", scenario, *options]


# --- what the machine and the labs' machines do ------------------------------------------------------------


class Machine:
    """How busy this machine is, and what the labs' machines have computed. Sampled by `watch`."""

    def __init__(self) -> None:
        self.samples = self.idle = 0
        self._seen: dict[str, float] = {}
        self._computed: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def sample(self) -> None:
        """Whether anybody but this process runs or waits for a core just now."""
        running = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("procs_running"))
        self.samples += 1
        self.idle += int(running.split()[1]) <= 1

    def computed(self, lab: str) -> float:
        """CPU seconds of a lab's machines since the first call; of those that are gone, too."""
        with self._lock:
            for container, name in containers():
                seconds = cpu_seconds(container)
                if seconds is not None:
                    # A machine that was switched off and on counts from 0.
                    before = self._seen.get(container, 0.0)
                    self._computed[name] += seconds - before if seconds >= before else seconds
                    self._seen[container] = seconds
            return self._computed[lab]


def containers() -> list[tuple[str, str]]:
    """The labs' machines, by their containers, each with the name of its lab."""
    command = ["docker", "ps", "--no-trunc", "--filter", "label=roverwatch.lab"]
    command += ["--format", '{{.ID}} {{.Label "roverwatch.lab"}}']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [(container, lab) for container, lab in map(str.split, done.stdout.splitlines())]


def cpu_seconds(container: str, root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """What a container has computed by the kernel's count, in cgroup v1 or v2, made by runc itself or by systemd."""
    for folder in (f"docker/{container}", f"system.slice/docker-{container}.scope"):
        v1, v2 = root / "cpuacct" / folder / "cpuacct.usage", root / folder / "cpu.stat"
        if v1.exists():
            return int(v1.read_text()) / 1e9
        if v2.exists():
            return int(v2.read_text().split()[1]) / 1e6  # usage_usec is the first
    return None


def busy_seconds() -> float:
    """CPU seconds of the whole machine since it started."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq))) / os.sysconf("SC_CLK_TCK")


# --- running -----------------------------------------------------------------------------------------------


class Runner:
    """The lanes at work."""

    def __init__(self, machine: Machine, live: bool) -> None:
        self.machine, self.live = machine, live
        self.ended: list[Stage] = []
        self.running: dict[int, Stage] = {}
        self.stopping = False
        self._lock = threading.Lock()

    def __call__(self, lanes: Sequence[Sequence[Stage]]) -> None:
        """Until all of them have ended. Raises KeyboardInterrupt when nothing of them runs any more."""
        threads = [threading.Thread(target=self.lane, args=[lane], daemon=True) for lane in lanes]
        try:
            for thread in threads:
                thread.start()
            self.watch(threads)
        except KeyboardInterrupt:
            print("interrupted: ending what runs", flush=True)
            self.end(threads)
            raise

    def lane(self, of: Sequence[Stage]) -> None:
        for stage in of:
            self.stage(stage)

    def stage(self, stage: Stage) -> None:
        samples, idle = self.machine.samples, self.machine.idle
        lab_cpu = self.machine.computed(stage.lab)
        stage.started = time.monotonic()
        with stage.log.open("wb") as log, self._lock:
            if self.stopping:
                return
            process = subprocess.Popen(
                ["nice", "-n", str(stage.nice), *stage.command],
                cwd=ROOT,
                env=os.environ | {"PYTEST_ADDOPTS": f"--junitxml={stage.report}"},
                stdin=subprocess.DEVNULL,
                stdout=None if self.live else log,
                stderr=None if self.live else subprocess.STDOUT,
                # So that Ctrl-C reaches this process alone, which ends them in order.
                start_new_session=True,
            )
            self.running[process.pid] = stage
            print(f"== {stage.name}", flush=True)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = stage.status = os.waitstatus_to_exitcode(status)
        stage.seconds = time.monotonic() - stage.started
        stage.cpu = used.ru_utime + used.ru_stime
        stage.lab_cpu = self.machine.computed(stage.lab) - lab_cpu
        taken = self.machine.samples - samples
        stage.idle = (self.machine.idle - idle) / taken if taken else 0.0
        with self._lock:
            del self.running[process.pid]
            self.ended.append(stage)
            print(stage.log.read_text(errors="replace"), end="")
            print(f"== {stage.name}: {'done' if stage.status == 0 else 'FAILED'} in {stage.seconds:.0f} s", flush=True)

    def watch(self, threads: Sequence[threading.Thread]) -> None:
        next_containers = time.monotonic()
        next_progress = next_containers + PROGRESS_SECONDS
        while any(thread.is_alive() for thread in threads):
            time.sleep(SAMPLE_SECONDS)
            self.machine.sample()
            now = time.monotonic()
            if now >= next_containers:
                next_containers = now + CONTAINERS_SECONDS
                self.machine.computed("")
            if now >= next_progress and not self.live:
                next_progress = now + PROGRESS_SECONDS
                self.progress()

    def progress(self) -> None:
        """That there is life, while nothing is printed."""
        with self._lock:
            for one in self.running.values():
                said = [line for line in one.log.read_text(errors="replace").splitlines() if line.strip(" .")]
                at = said[-1][:LINE] if said else ""
                print(f"-- {one.name}, {time.monotonic() - one.started:.0f} s: {at}", flush=True)

    def end(self, threads: Sequence[threading.Thread]) -> None:
        """As Ctrl-C does in a terminal; then for good."""
        with self._lock:
            self.stopping = True
        self.signal(signal.SIGINT)
        deadline = time.monotonic() + END_SECONDS
        begun = [thread for thread in threads if thread.ident]
        for thread in begun:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.signal(signal.SIGKILL)
        for thread in begun:
            thread.join()

    def signal(self, number: int) -> None:
        with self._lock:
            for pid in self.running:
                os.killpg(pid, number)


def run(runner: Runner, wanted: Sequence[str]) -> None:
    """All of it. Raises KeyboardInterrupt when it was interrupted."""
    if list(wanted) != ["lint"]:
        runner([[Stage(PREPARE, ["make", "-j2", "images", "lab-artifacts"])]])
        if runner.ended[0].status != 0:
            return
    # Not before: the engine that was started there outlives this process.
    adopt_orphans()
    try:
        runner([lane for name in LANES if (lane := commands(name, wanted))])
    finally:
        kill_descendants()


def adopt_orphans() -> None:
    """Be the parent of those that the stages leave behind in sessions of their own: SSH's shared connections."""
    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def kill_descendants() -> None:
    while found := children():
        for pid in found:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def children() -> list[int]:
    """Of this process, whichever of its threads started them."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


# --- what to say of it -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One test of a stage, as pytest reports it."""

    stage: str
    name: str
    seconds: float
    skipped: str


def tests_of(stage: Stage) -> list[Case]:
    if not stage.report.exists():
        return []
    found = []
    for case in ElementTree.parse(stage.report).iter("testcase"):
        skipped = case.find("skipped")
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        why = "" if skipped is None else skipped.get("message", "")
        found.append(Case(stage.name, name, float(case.get("time", 0)), why))
    return found


def table(ended: Sequence[Stage], seconds: float, cpu: float, idle: float) -> str:
    """By stage; a stage's idle time is the whole machine's, with whatever ran beside it."""
    lines = [f"  {'stage':<28}{'wall':>8}{'CPU':>8}{'in lab':>8}{'idle':>7}"]
    for one in sorted(ended, key=lambda one: one.started):
        lines.append(row(one.name, one.seconds, one.cpu, one.lab_cpu, one.idle))
    lines.append(row("in all", seconds, cpu, sum(one.lab_cpu for one in ended), idle))
    lines.append("  wall, CPU: seconds; in lab: CPU of its machines; idle: the share of its time with no core at work")
    return "\n".join(lines)


def row(name: str, seconds: float, cpu: float, lab_cpu: float, idle: float) -> str:
    return f"  {name:<28}{seconds:>6.0f} s{cpu:>6.0f} s{lab_cpu:>6.0f} s{idle:>7.0%}"


def skips(tests: Iterable[Case]) -> list[str]:
    """Each reason once, with how many tests it kept from running."""
    count = Counter((test.stage, test.skipped) for test in tests if test.skipped)
    return [f"  {number:>3} of {stage}: {reason}" for (stage, reason), number in count.most_common()]


def longest(tests: Iterable[Case]) -> list[str]:
    first = sorted(tests, key=lambda test: test.seconds, reverse=True)[:LONGEST]
    return [f"  {test.seconds:>6.1f} s  {test.stage}: {test.name}" for test in first]


def summary(ended: Sequence[Stage], left: Sequence[str], figures: tuple[float, float, float]) -> str:
    tests = [test for stage in ended for test in tests_of(stage)]
    failed = [stage.name for stage in ended if stage.status != 0]
    lines = ["== what took the time", table(ended, *figures)]
    skipped = skips(tests)
    lines += ["== skipped", *(skipped or ["  nothing"])]
    lines += [f"== the longest of {len(tests)} tests", *longest(tests)] if tests else []
    lines += [f"FAILED: {name}" for name in failed]
    lines += [f"not run: {' '.join(left)}"] if left else []
    lines.append(f"stages: {len(ended) - len(failed)} passed, {len(failed)} failed")
    return "\n".join(lines)


def main() -> int:
    try:
        wanted, lines = stages.chosen(os.environ)
    except (stages.UnknownStage, stages.NothingToCompare) as error:
        print(error, file=sys.stderr)
        return 2
    print(*lines, sep="\n", end="\n" if lines else "")
    os.environ |= {"ROVERWATCH_LAB": "test", "NO_COLOR": "1"}
    if sys.argv[1:] == ["soak"]:
        os.environ["ROVERWATCH_SOAK"] = "1"
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        # SIGINT, too: whoever starts this in the background of a script has it ignored, here and in every stage.
        signal.signal(number, interrupt)

    machine = Machine()
    runner = Runner(machine, live=sum(bool(commands(name, wanted)) for name in LANES) == 1)
    start, busy, interrupted = time.monotonic(), busy_seconds(), False
    try:
        run(runner, wanted)
    except KeyboardInterrupt:
        interrupted = True
    figures = time.monotonic() - start, busy_seconds() - busy, machine.idle / max(1, machine.samples)
    subprocess.run(["lab/engine.sh", "stop"], cwd=ROOT, check=False)
    left = [name for name in wanted if name not in {stage.name for stage in runner.ended}]
    print(summary(runner.ended, left, figures))
    if interrupted:
        return 130
    return int(bool(left) or any(stage.status for stage in runner.ended))


def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
