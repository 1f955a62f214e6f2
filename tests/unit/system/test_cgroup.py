"""Memory figures from fake trees of both versions, and from the kernel that runs the tests."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.system import cgroup

MIB = 2**20
V1_NO_LIMIT = 9223372036854771712


def write(directory: Path, files: dict[str, object]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_text(f"{content}\n")
    return directory


def v1(directory: Path, **changes: object) -> Path:
    files: dict[str, object] = {
        "memory.usage_in_bytes": 50 * MIB,
        "memory.limit_in_bytes": 80 * MIB,
        "memory.max_usage_in_bytes": 70 * MIB,
        "memory.stat": f"cache 1\ninactive_file 1\ntotal_inactive_file {20 * MIB}",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    }
    return write(directory, files | {f"memory.{name}": value for name, value in changes.items()})


def v2(directory: Path, **changes: object) -> Path:
    files: dict[str, object] = {
        "memory.current": 50 * MIB,
        "memory.max": 80 * MIB,
        "memory.peak": 70 * MIB,
        "memory.stat": f"anon 1\nfile 1\ninactive_file {20 * MIB}",
        "memory.events": "low 0\nhigh 0\nmax 5\noom 2\noom_kill 2\noom_group_kill 0",
    }
    return write(directory, files | {f"memory.{name}": value for name, value in changes.items()})


def mountinfo(tmp_path: Path, *mounts: tuple[str, Path, str, str]) -> Path:
    """A mountinfo of (root, mount point, filesystem, super options)."""
    lines = []
    for number, (root, point, kind, options) in enumerate(mounts, start=31):
        place = str(point).replace(" ", r"\040")
        lines.append(f"{number} 23 0:{number} {root} {place} rw,relatime shared:9 - {kind} {kind} {options}")
    path = tmp_path / "mountinfo"
    path.write_text("\n".join(["22 1 8:1 / / rw - ext4 /dev/sda1 rw", *lines]) + "\n")
    return path


@pytest.mark.parametrize("make", [v1, v2])
def test_figures(tmp_path: Path, make: object) -> None:
    assert callable(make)
    directory = make(tmp_path / "unit.service")
    assert cgroup.memory(directory) == cgroup.CgroupMemory(
        path=str(directory),
        version=1 if make is v1 else 2,
        usage_bytes=50 * MIB,
        working_set_bytes=30 * MIB,
        peak_bytes=70 * MIB,
        limit_bytes=80 * MIB,
        oom_kills=2,
        inode=directory.stat().st_ino,
    )


def test_no_limit_v1(tmp_path: Path) -> None:
    assert cgroup.memory(v1(tmp_path / "4k", limit_in_bytes=V1_NO_LIMIT)).limit_bytes is None
    assert cgroup.memory(v1(tmp_path / "64k", limit_in_bytes=2**63 - 65536)).limit_bytes is None
    assert cgroup.memory(v1(tmp_path / "8T", limit_in_bytes=2**43)).limit_bytes == 2**43


def test_no_limit_v2(tmp_path: Path) -> None:
    assert cgroup.memory(v2(tmp_path / "a", max="max")).limit_bytes is None


def test_old_kernels_lack_figures(tmp_path: Path) -> None:
    without_peak = v2(tmp_path / "two")
    (without_peak / "memory.peak").unlink()
    assert cgroup.memory(without_peak).peak_bytes is None
    assert cgroup.memory(v1(tmp_path / "one", oom_control="oom_kill_disable 0\nunder_oom 0")).oom_kills is None


def test_working_set_is_never_negative(tmp_path: Path) -> None:
    # The kernel's counters are not read at one instant.
    assert cgroup.memory(v2(tmp_path / "a", stat=f"inactive_file {60 * MIB}")).working_set_bytes == 0


def test_directory_without_memory_accounting(tmp_path: Path) -> None:
    with pytest.raises(cgroup.CgroupError, match="no cgroup with memory accounting"):
        cgroup.memory(tmp_path)


def test_cgroup_that_ends_while_it_is_read(tmp_path: Path) -> None:
    directory = v1(tmp_path / "a")
    (directory / "memory.limit_in_bytes").unlink()
    with pytest.raises(cgroup.CgroupError, match="went away"):
        cgroup.memory(directory)


def test_controller_v1_and_hybrid(tmp_path: Path) -> None:
    unified = write(tmp_path / "unified", {"cgroup.controllers": ""})
    info = mountinfo(
        tmp_path,
        ("/", tmp_path / "memory", "cgroup", "rw,memory"),
        ("/", tmp_path / "cpu", "cgroup", "rw,cpu"),
        ("/", unified, "cgroup2", "rw"),
    )
    assert cgroup.find_controller(info) == cgroup.Controller(1, tmp_path / "memory", "/")


def test_controller_v2(tmp_path: Path) -> None:
    mount = write(tmp_path / "with blank", {"cgroup.controllers": "cpuset cpu io memory pids"})
    found = cgroup.find_controller(mountinfo(tmp_path, ("/", mount, "cgroup2", "rw,nsdelegate")))
    assert found == cgroup.Controller(2, mount, "/")


def test_missing_controller_names_the_boot_option(tmp_path: Path) -> None:
    mount = write(tmp_path / "cg", {"cgroup.controllers": "cpu pids"})
    with pytest.raises(cgroup.CgroupError, match="cgroup_enable=memory"):
        cgroup.find_controller(mountinfo(tmp_path, ("/", mount, "cgroup2", "rw")))


@pytest.mark.parametrize(
    ("root", "path", "inside"),
    [
        ("/", "/roverwatch.slice/a.service", "roverwatch.slice/a.service"),
        # A robot that is a container, with the host's hierarchy mounted whole.
        ("/", "/docker/4cbb/roverwatch.slice", "docker/4cbb/roverwatch.slice"),
        # The same with only its own part mounted.
        ("/docker/4cbb", "/docker/4cbb/roverwatch.slice", "roverwatch.slice"),
        ("/docker/4cbb", "/docker/4cbb", ""),
        ("/docker/4c", "/docker/4cbb/roverwatch.slice", "docker/4cbb/roverwatch.slice"),
    ],
)
def test_directory_of_a_cgroup(root: str, path: str, inside: str) -> None:
    controller = cgroup.Controller(1, Path("/sys/fs/cgroup/memory"), root)
    assert controller.directory(path) == Path("/sys/fs/cgroup/memory") / inside


def test_cgroup_of_pid(tmp_path: Path) -> None:
    write(tmp_path / "7", {"cgroup": "9:name=systemd:/s\n5:cpu,memory:/with:colon\n0::/unified"})
    assert cgroup.cgroup_of_pid(7, cgroup.Controller(1, Path("/m"), "/"), tmp_path) == Path("/m/with:colon")
    assert cgroup.cgroup_of_pid(7, cgroup.Controller(2, Path("/m"), "/"), tmp_path) == Path("/m/unified")
    with pytest.raises(cgroup.CgroupError, match="no process 8"):
        cgroup.cgroup_of_pid(8, cgroup.Controller(1, Path("/m"), "/"), tmp_path)


def test_process_outside_of_the_controller(tmp_path: Path) -> None:
    write(tmp_path / "7", {"cgroup": "9:name=systemd:/s"})
    with pytest.raises(cgroup.CgroupError, match="process 7 is in no cgroup"):
        cgroup.cgroup_of_pid(7, cgroup.Controller(1, Path("/m"), "/"), tmp_path)


@pytest.mark.parametrize("engine", ["libpod", "docker"])
def test_container_scope(tmp_path: Path, engine: str) -> None:
    container_id = "ab" * 32
    assert cgroup.container_scope(tmp_path, container_id) is None
    (tmp_path / f"{engine}-{container_id}.scope").mkdir()
    (tmp_path / f"{engine}-{'cd' * 32}.scope").mkdir()
    assert cgroup.container_scope(tmp_path, container_id) == tmp_path / f"{engine}-{container_id}.scope"


@pytest.mark.parametrize(
    ("scope_limit", "child_limit", "counts"),
    [
        (V1_NO_LIMIT, 80 * MIB, "child"),  # crun 1.8
        (80 * MIB, 80 * MIB, "child"),  # crun 1.21
        (80 * MIB, None, "scope"),  # runc makes no child
        (V1_NO_LIMIT, V1_NO_LIMIT, "scope"),
    ],
)
def test_container_memory_v1(tmp_path: Path, scope_limit: int, child_limit: int | None, counts: str) -> None:
    scope = v1(tmp_path / "libpod-c0ffee.scope", limit_in_bytes=scope_limit)
    if child_limit is not None:
        v1(scope / "container", limit_in_bytes=child_limit)
    found = cgroup.container_memory(tmp_path, "c0ffee")
    assert found is not None
    assert found.path == str(scope / "container" if counts == "child" else scope)


def test_container_memory_v2_with_the_limit_on_the_scope(tmp_path: Path) -> None:
    scope = v2(tmp_path / "libpod-c0ffee.scope")
    v2(scope / "container", max="max")
    found = cgroup.container_memory(tmp_path, "c0ffee")
    assert found is not None
    assert found.path == str(scope)
    assert cgroup.container_memory(tmp_path, "decaf") is None


def record(tmp_path: Path, *, inode: int, seen: int, total: int, boot: str = "now") -> cgroup.OomRecord:
    (tmp_path / "boot_id").write_text("now\n")
    (tmp_path / "roverwatch-vmagent.oom.prom").write_text(
        f"# boot {boot} cgroup_inode {inode} seen {seen}\n"
        "# HELP container_oom_events_total OOM kills in the service's cgroup, kept across restarts.\n"
        "# TYPE container_oom_events_total counter\n"
        f'container_oom_events_total{{name="roverwatch-vmagent"}} {total}\n'
    )
    return cgroup.read_oom_record("roverwatch-vmagent", tmp_path, tmp_path / "boot_id")


def test_oom_kills_without_a_record(tmp_path: Path) -> None:
    live = cgroup.memory(v1(tmp_path / "a"))
    kept = cgroup.read_oom_record("roverwatch-vmagent", tmp_path)
    assert kept == cgroup.NO_OOM_RECORD
    assert kept.now(live) == 2
    assert kept.now(None) == 0


def test_oom_kills_of_earlier_cgroups_are_added(tmp_path: Path) -> None:
    live = cgroup.memory(v2(tmp_path / "a"))
    kept = record(tmp_path, inode=live.inode + 1, seen=3, total=3)
    assert (kept.now(live), kept.unrecorded(live)) == (5, 2)


def test_oom_kills_that_the_record_has_seen_count_once(tmp_path: Path) -> None:
    live = cgroup.memory(v2(tmp_path / "a"))
    assert record(tmp_path, inode=live.inode, seen=2, total=7).now(live) == 7
    kept = record(tmp_path, inode=live.inode, seen=1, total=6)
    assert (kept.now(live), kept.unrecorded(live)) == (7, 1)


def test_a_cgroup_of_an_earlier_boot_is_another_one_whatever_its_inode(tmp_path: Path) -> None:
    live = cgroup.memory(v2(tmp_path / "a"))
    kept = record(tmp_path, inode=live.inode, seen=2, total=2, boot="before")
    assert kept.now(live) == 2 + 2


def test_kernel_that_does_not_count_oom_kills(tmp_path: Path) -> None:
    live = dataclasses.replace(cgroup.memory(v1(tmp_path / "a")), oom_kills=None)
    assert record(tmp_path, inode=live.inode, seen=0, total=4).now(live) == 4


def test_time_of_the_record(tmp_path: Path) -> None:
    record(tmp_path, inode=1, seen=1, total=1)
    os.utime(tmp_path / "roverwatch-vmagent.oom.prom", (1000, 1000))
    kept = cgroup.read_oom_record("roverwatch-vmagent", tmp_path, tmp_path / "boot_id")
    assert kept.modified == 1000


@pytest.mark.parametrize("text", ["", "# boot a cgroup_inode 5 seen 1\n", 'container_oom_events_total{name="a"} 1\n'])
def test_broken_record_is_not_zero(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.oom.prom"
    path.write_text(text)
    with pytest.raises(cgroup.CgroupError, match=r"a\.oom\.prom"):
        cgroup.read_oom_record("a", tmp_path)


def test_this_kernel() -> None:
    """The machine that runs the tests, whichever version it has."""
    try:
        controller = cgroup.find_controller()
    except cgroup.CgroupError as error:
        pytest.skip(str(error))
    own = cgroup.cgroup_of_pid(os.getpid(), controller)
    # The root cgroup of v2 has no memory files, but every cgroup below it has.
    candidates = [own, *sorted(path for path in controller.mount.iterdir() if path.is_dir())]
    readable = [path for path in candidates if any(path.glob("memory.*in_bytes")) or (path / "memory.current").exists()]
    if not readable:
        pytest.skip(f"{controller.mount} has no cgroup with memory accounting")
    figures = cgroup.memory(readable[0])
    assert figures.version == controller.version
    assert 0 <= figures.working_set_bytes <= figures.usage_bytes
    assert figures.limit_bytes is None or figures.limit_bytes < 2**62
    assert figures.inode == readable[0].stat().st_ino
