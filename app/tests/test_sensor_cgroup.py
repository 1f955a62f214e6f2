"""The source `cgroup`, on trees of files as kernels make them, and on this machine's own kernel."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_service.config import load
from sensor_service.options import ConfigError
from sensor_service.readings import Intake
from sensor_service.sources import source_class
from sensor_service.sources.cgroup import CgroupOptions, CgroupSource, NoSliceError, parse_fields

MB = 1 << 20
ID = "0123456789abcdef" * 4
# As a robot that is itself a container sees itself.
DEEP = "docker/77aa/roverwatch.slice"
V1_PROC = (
    f"12:perf_event:/\n4:memory:/{DEEP}/libpod-{ID}.scope/container\n2:cpu,cpuacct:/{DEEP}/x\n8:pids:/{DEEP}/x\n0::/\n"
)
V2_PROC = f"0::/{DEEP}/libpod-{ID}.scope/container\n"


def v1(usage: int, limit: int | None, oom_kills: int = 0) -> dict[str, str]:
    """The files of a cgroup v1. The names without total_ are of the cgroup alone, not of those below it."""
    return {
        "memory/memory.usage_in_bytes": f"{usage}\n",
        "memory/memory.max_usage_in_bytes": f"{usage + MB}\n",
        "memory/memory.limit_in_bytes": f"{limit or 9223372036854771712}\n",
        "memory/memory.stat": (
            "cache 0\nrss 0\ninactive_file 0\nhierarchical_memory_limit 1\n"
            f"total_cache {3 * MB}\ntotal_rss {usage - 4 * MB}\ntotal_inactive_file {2 * MB}\n"
        ),
        "memory/memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {oom_kills}\n",
        "cpuacct/cpuacct.usage": "12500000000\n",
        "pids/pids.current": "7\n",
    }


def v2(usage: int, limit: int | None, oom_kills: int = 0) -> dict[str, str]:
    """The files of a cgroup v2."""
    return {
        "memory.current": f"{usage}\n",
        "memory.peak": f"{usage + MB}\n",
        "memory.max": f"{limit or 'max'}\n",
        "memory.stat": f"anon {usage - 4 * MB}\nfile {3 * MB}\ninactive_file {2 * MB}\n",
        "memory.events": f"low 0\nhigh 0\nmax 9\noom 9\noom_kill {oom_kills}\noom_group_kill 0\n",
        "cpu.stat": "usage_usec 12500000\nuser_usec 1\nsystem_usec 1\n",
        "pids.current": "7\n",
    }


class Robot:
    """A robot's files in a folder: its cgroups, its containers' ids, and the source that reads them."""

    def __init__(self, folder: Path, version: int) -> None:
        self.root, self.containers = folder / "cgroup", folder / "run"
        self.proc = folder / "proc_self_cgroup"
        self.containers.mkdir()
        self.version = version
        self.proc.write_text(V1_PROC if version == 1 else V2_PROC)
        self.root.mkdir()
        if version == 2:
            (self.root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        options = CgroupOptions(root=str(self.root), containers_dir=str(self.containers))
        self.source = CgroupSource(options, self.proc)

    def directory(self, controller: str, cgroup: str) -> Path:
        """The directory of a cgroup in the slice; on v2 no controller has one of its own."""
        return self.root / controller / DEEP / cgroup

    def add(self, cgroup: str, usage: int, limit: int | None, oom_kills: int = 0) -> None:
        """Make a cgroup in the slice; "" is the slice."""
        files = v1(usage, limit, oom_kills) if self.version == 1 else v2(usage, limit, oom_kills)
        for path, text in files.items():
            controller, _, name = path.rpartition("/")
            (self.directory(controller, cgroup)).mkdir(parents=True, exist_ok=True)
            (self.directory(controller, cgroup) / name).write_text(text)

    def file(self, cgroup: str, of_v1: str, of_v2: str) -> Path:
        controller, _, name = (of_v1 if self.version == 1 else of_v2).rpartition("/")
        return self.directory(controller, cgroup) / name

    def sample(self) -> dict[str, dict[str, float]]:
        """The figures by metric and ``name``, if the service would take all of them as they are."""
        accepted = Intake("cgroup", CgroupSource.families, 500).accept(self.source.sample(1.0), 0.0)
        assert accepted.problem is None
        found: dict[str, dict[str, float]] = {}
        for reading in accepted.readings:
            found.setdefault(reading.sensor, {})[dict(reading.labels)["name"]] = reading.value
        return found


@pytest.fixture(name="robot", params=[1, 2], ids=["v1", "v2"])
def _robot(request: pytest.FixtureRequest, tmp_path: Path) -> Robot:
    robot = Robot(tmp_path, request.param)
    robot.add("", usage=100 * MB, limit=300 * MB)
    robot.add("roverwatch-vmagent.service", usage=20 * MB, limit=48 * MB, oom_kills=2)
    return robot


def test_every_figure_is_the_kernels_under_cadvisors_name(robot: Robot) -> None:
    assert {metric: values["roverwatch-vmagent"] for metric, values in robot.sample().items()} == {
        "container_memory_usage_bytes": 20 * MB,
        "container_memory_working_set_bytes": 18 * MB,
        "container_memory_rss": 16 * MB,
        "container_memory_cache": 3 * MB,
        "container_memory_max_usage_bytes": 21 * MB,
        "container_spec_memory_limit_bytes": 48 * MB,
        "container_oom_events_total": 2,
        "container_cpu_usage_seconds_total": 12.5,
        "container_threads": 7,
    }


def test_services_containers_their_supervisors_and_the_slice_are_told_apart(robot: Robot) -> None:
    robot.add("roverwatch-sensor.service", usage=4 * MB, limit=80 * MB)
    robot.add(f"libpod-{ID}.scope", usage=30 * MB, limit=80 * MB)
    robot.add(f"docker-{ID[::-1]}.scope", usage=31 * MB, limit=80 * MB)
    (robot.containers / "roverwatch-sensor.cid").write_text(f"{ID}\n")
    (robot.containers / "camera.cid").write_text(ID[::-1])
    assert robot.sample()["container_memory_usage_bytes"] == {
        "roverwatch.slice": 100 * MB,
        "roverwatch-sensor": 30 * MB,
        "camera": 31 * MB,
        "roverwatch-sensor.service": 4 * MB,
        "roverwatch-vmagent": 20 * MB,
    }


def test_a_supervisor_keeps_its_name_while_its_container_is_started_anew(robot: Robot) -> None:
    robot.add("roverwatch-sensor.service", usage=4 * MB, limit=80 * MB)
    (robot.containers / "roverwatch-sensor.cid").write_text(ID)
    before = robot.sample()
    (robot.containers / "roverwatch-sensor.cid").unlink()
    assert robot.sample() == before


def test_a_container_that_nobody_wrote_down_has_no_series_of_its_own(robot: Robot) -> None:
    before = robot.sample()
    robot.add(f"libpod-{ID}.scope", usage=4 * MB, limit=None)
    robot.add("other.scope", usage=4 * MB, limit=None)
    assert robot.sample() == before


@pytest.mark.parametrize(
    ("scope", "child", "tightest"), [(None, 80, 80), (80, None, 80), (80, 80, 80), (90, 80, 80), (80, 90, 80)]
)
def test_of_two_limits_the_tighter_one_holds(robot: Robot, scope: int | None, child: int | None, tightest: int) -> None:
    (robot.containers / "sensor.cid").write_text(ID)
    robot.add(f"libpod-{ID}.scope", usage=30 * MB, limit=scope and scope * MB)
    robot.add(f"libpod-{ID}.scope/container", usage=29 * MB, limit=child and child * MB, oom_kills=3)
    found = robot.sample()
    assert found["container_spec_memory_limit_bytes"]["sensor"] == tightest * MB
    assert found["container_memory_usage_bytes"]["sensor"] == 30 * MB
    assert found["container_oom_events_total"]["sensor"] == 3  # where the process was


def test_no_limit_is_0_as_in_cadvisor(robot: Robot) -> None:
    robot.add("free.service", usage=5 * MB, limit=None)
    assert robot.sample()["container_spec_memory_limit_bytes"]["free"] == 0


def test_more_inactive_cache_than_memory_is_a_working_set_of_0(robot: Robot) -> None:
    """The kernel's two files are not of one instant."""
    robot.file("roverwatch-vmagent.service", "memory/memory.usage_in_bytes", "memory.current").write_text("4096\n")
    assert robot.sample()["container_memory_working_set_bytes"]["roverwatch-vmagent"] == 0


def test_what_a_kernel_does_not_count_is_left_out(robot: Robot) -> None:
    unit = "roverwatch-vmagent.service"
    robot.file(unit, "pids/pids.current", "pids.current").unlink()
    missing = {"container_threads"}
    if robot.version == 1:  # before 4.13, and without the controller cpuacct
        robot.file(unit, "memory/memory.oom_control", "").write_text("oom_kill_disable 0\nunder_oom 0\n")
        robot.file(unit, "cpuacct/cpuacct.usage", "").unlink()
        missing |= {"container_oom_events_total", "container_cpu_usage_seconds_total"}
    else:  # before 5.19
        robot.file(unit, "", "memory.peak").unlink()
        missing |= {"container_memory_max_usage_bytes"}
    found = robot.sample()
    assert {metric for metric, values in found.items() if "roverwatch-vmagent" not in values} == missing
    assert all("roverwatch.slice" in values for values in found.values())


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV])
def test_a_cgroup_that_ends_while_it_is_read_is_no_failure(
    robot: Robot, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    robot.add("ending.service", usage=5 * MB, limit=None)
    failed = fail_to_read(monkeypatch, robot.file("ending.service", "memory/memory.stat", "memory.stat"), number)
    assert "ending" not in robot.sample()["container_memory_usage_bytes"]
    assert failed


def test_a_file_that_may_not_be_read_is_a_failure(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    path = robot.file("roverwatch-vmagent.service", "memory/memory.stat", "memory.stat")
    fail_to_read(monkeypatch, path, errno.EACCES)
    with pytest.raises(PermissionError, match=path.name):
        list(robot.source.sample(1.0))


def fail_to_read(monkeypatch: pytest.MonkeyPatch, failing: Path, number: int) -> list[Path]:
    """Have one file raise an OSError when it is read; it is put into the list that is returned each time."""
    read_text = Path.read_text
    failed = []

    def read(path: Path, *args: Any, **kwargs: Any) -> str:
        if path == failing:
            failed.append(path)
            raise OSError(number, "on purpose", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read)
    return failed


def test_without_a_slice_the_error_says_where_it_was_looked_for(tmp_path: Path) -> None:
    robot = Robot(tmp_path, 2)
    with pytest.raises(NoSliceError, match=f"{robot.root}/{DEEP}/memory.current is not there"):
        list(robot.source.sample(1.0))


def test_a_v2_kernel_without_its_memory_controller_is_not_taken_for_v1(tmp_path: Path) -> None:
    robot = Robot(tmp_path, 2)
    (robot.root / "cgroup.controllers").write_text("cpuset cpu io pids\n")
    (robot.root / DEEP).mkdir(parents=True)
    with pytest.raises(NoSliceError, match=f"{robot.root}/{DEEP}/memory.current .* memory controller is off"):
        list(robot.source.sample(1.0))


def test_a_slice_at_the_top_is_found_from_outside_of_it(robot: Robot) -> None:
    """As on a laptop, or in a container with cgroups of its own."""
    robot.proc.write_text("4:memory:/user.slice\n2:cpu,cpuacct:/\n8:pids:/\n0::/\n")
    for controller in ("memory", "cpuacct", "pids") if robot.version == 1 else ("",):
        robot.directory(controller, "").rename(robot.root / controller / "roverwatch.slice")
    assert robot.sample()["container_memory_usage_bytes"]["roverwatch-vmagent"] == 20 * MB


def test_a_hybrid_machine_accounts_memory_in_v1(tmp_path: Path) -> None:
    robot = Robot(tmp_path, 1)
    robot.add("", usage=100 * MB, limit=300 * MB)
    (robot.root / "unified").mkdir()
    (robot.root / "unified" / "cgroup.controllers").write_text("\n")
    assert robot.sample()["container_spec_memory_limit_bytes"] == {"roverwatch.slice": 300 * MB}


NAMES = st.text(st.characters(categories=["Ll", "Nd"], include_characters="_."), min_size=1)


@given(st.dictionaries(NAMES, st.integers(min_value=0, max_value=2**64 - 1)))
def test_a_file_of_fields_is_read_as_it_was_written(fields: Mapping[str, int]) -> None:
    assert parse_fields("".join(f"{name} {number}\n" for name, number in fields.items())) == fields


def test_this_machines_kernel_writes_what_the_source_reads(tmp_path: Path) -> None:
    """The cgroup of this very process stands in for the slice."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    top = Path("/sys/fs/cgroup")
    if "memory" in ((top / "cgroup.controllers").read_text() if (top / "cgroup.controllers").exists() else ""):
        own = {"roverwatch.slice": top / next(path for _, names, path in lines if not names).lstrip("/")}
        (tmp_path / "cgroup.controllers").write_text("memory\n")
    else:
        paths = {name: path for _, names, path in lines for name in names.split(",")}
        own = {f"{name}/roverwatch.slice": top / name / paths[name].lstrip("/") for name in ("memory", "cpuacct")}
    for link, target in own.items():
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(target)
    proc = tmp_path / "proc_self_cgroup"
    proc.write_text("0::/\n")
    if not any(
        (target / name).exists() for target in own.values() for name in ("memory.current", "memory.usage_in_bytes")
    ):
        pytest.skip("this process is in the root cgroup, which counts nothing")
    source = CgroupSource(CgroupOptions(root=str(tmp_path), containers_dir=str(tmp_path)), proc)
    found = {item.sensor: item.value for item in source.sample(1.0)}
    assert 0 < found["container_memory_rss"] < found["container_memory_usage_bytes"]
    assert found["container_cpu_usage_seconds_total"] > 0


@pytest.mark.parametrize(
    ("option", "allowed"),
    [
        ('root = "sys"', "an absolute path"),
        ('containers_dir = ""', "an absolute path"),
        ('slice = "roverwatch"', 'the name of a unit that ends with ".slice"'),
        ('slice = "a/b.slice"', 'the name of a unit that ends with ".slice"'),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(tmp_path: Path, option: str, allowed: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[[sources]]\ntype = "cgroup"\n[sources.options]\n{option}\n')
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    key, value = option.split(" = ")
    assert (
        str(caught.value) == f"{path}: sources[0].options.{key} = {value.replace(chr(34), chr(39))}: must be {allowed}"
    )


def test_it_may_be_configured_once() -> None:
    assert source_class("cgroup") is CgroupSource
    assert CgroupSource.single
