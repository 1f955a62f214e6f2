"""`make outdated` and `make lock`: the newest of each line, who cannot be asked, and what is written.

What a line is, is tested by itself; git, skopeo, uv and the playbook against servers on loopback.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import ansible_runs
import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.outdated import lines, pins, programs
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.outdated.pins import Answer, Pin, Report, Row
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.outdated.programs import NotAskedError
from loopback import served
from registry import Registry, small_layer
from registry import served as registry_served

ROOT = Path(__file__).resolve().parents[3]
OLD = "sha256:" + "0" * 64

# --- lines ----------------------------------------------------------------------------------------------------

TAGS = ["v1.136.14", "v1.150.0", "v1.150.2", "v1.152.0", "v1.152.1-cluster", "v1.153.0-rc1", "v1.9.0", "v1.160", "x"]


@pytest.mark.parametrize(
    ("pinned", "tags", "newest", "patch", "major"),
    [
        ("1.150.0", TAGS, "1.152.0", "1.150.2", None),
        ("1.152.0", TAGS, "1.152.0", None, None),
        ("1.9.0", ["v1.10.0"], "1.10.0", None, None),
        ("1.150.0", ["v1.150.2"], "1.150.2", None, None),
        ("1.150.0", ["v2.0.0", "v3.0.0", "v0.9.0"], "1.150.0", None, "3.0.0"),
        ("0.33.1", ["v0.34.0", "v1.0.0"], "0.34.0", None, "1.0.0"),
        ("1.150.0", [], "1.150.0", None, None),
    ],
)
def test_the_line_of_a_release_is_its_major_version(pinned, tags, newest, patch, major):
    found = lines.releases(lines.version(pinned), tags)
    assert lines.text_of(found.newest) == newest
    assert [each and lines.text_of(each) for each in (found.patch, found.major)] == [patch, major]


@pytest.mark.parametrize("text", ["1.150.0-rc1", "v1.150.0-enterprise", "main", "", "1..2"])
def test_what_is_no_release(text):
    assert lines.version(text) is None


PYTHON = ["3.13.7-alpine3.22", "3.13.9-alpine3.22", "3.13.10-alpine3.22", "3.13.10-alpine3.23", "3.13.9-alpine3.24"]
PYTHON += ["3.14.0-alpine3.22", "3.13.11-alpine", "3.13-alpine3.22", "3.13.12-slim-bookworm", "3.13.11rc1-alpine3.22"]
PYTHON += ["3.13.99-alpine3", "latest"]


def test_the_line_of_an_image_is_two_numbers_and_the_suffix():
    newest, later = lines.tags(lines.tag("3.13.7-alpine3.22"), PYTHON)
    assert (str(newest), str(later)) == ("3.13.10-alpine3.22", "3.13.9-alpine3.24")
    newest, later = lines.tags(lines.tag("3.13.9-alpine3.24"), PYTHON)
    assert (str(newest), later) == ("3.13.9-alpine3.24", None)
    newest, later = lines.tags(lines.tag("3.13.1-slim-bookworm"), PYTHON)
    assert (str(newest), later) == ("3.13.12-slim-bookworm", None)


@pytest.mark.parametrize("text", ["bookworm-slim", "latest", "3.14.0rc2-alpine", "3.13-"])
def test_a_tag_without_a_version_has_no_line(text):
    assert lines.tag(text) is None


@pytest.mark.parametrize(
    ("pinned", "newest"),
    [("v5", "v6"), ("v5.0.1", "v6.1.0"), ("v6", "v6"), ("5.0", "6.1"), ("v7", "v7"), ("main", None)],
)
def test_an_action_has_its_newest_version_as_it_is_pinned(pinned, newest):
    assert lines.newest_reference(pinned, ["v4", "v5", "v5.0.1", "v6", "v6.1.0", "v7.0.0-beta"]) == newest


# --- locks ----------------------------------------------------------------------------------------------------

LOCK = """# Locked from requirements.in: every file that may be installed, by its sha256.
flask==3.1.1 \\
    --hash=sha256:00
    # via -r requirements.in
numpy==1.26 ; python_version < '3.12' \\
    --hash=sha256:01
numpy==2.0 ; python_version >= '3.12' \\
    --hash=sha256:02
pip==25.0 \\
    --hash=sha256:03
"""


def test_two_locks_differ_by_their_packages():
    assert pins.locked_packages(LOCK) == {"flask": "3.1.1", "numpy": "1.26, 2.0", "pip": "25.0"}
    new = LOCK.replace("flask==3.1.1", "flask==3.2.0").replace("numpy==2.0", "numpy==2.1").replace("pip==", "uv==")
    found = ["flask 3.1.1 → 3.2.0", "numpy 1.26, 2.0 → 1.26, 2.1", "pip 25.0 → (gone)", "uv (new) → 25.0"]
    assert pins.changed_packages(LOCK, new) == found
    assert pins.changed_packages(LOCK, LOCK.replace("sha256:00", "sha256:09")) == []


def test_the_lock_of_the_images_keeps_its_comment_and_is_read_as_it_was_meant():
    digests = {"python:3.13.9-alpine3.22": "sha256:02", "127.0.0.1:5000/debian:trixie-slim": "sha256:01"}
    text = pins.lock_of_images(f"# Why artifacts_base_digests: is.\n\n{pins.DIGESTS}:\n  old:1: x\n", digests)
    assert text.startswith(
        f"# Why artifacts_base_digests: is.\n\n{pins.DIGESTS}:\n  127.0.0.1:5000/debian:trixie-slim: "
    )
    assert yaml.safe_load(text) == {pins.DIGESTS: digests}


def test_the_lock_has_the_dockerfiles_bases_and_those_of_no_dockerfile():
    locked = {"python:3.13.7-alpine3.22": OLD, "debian:bookworm-slim": OLD}
    assert pins.locked_images(["python:3.13.9-alpine3.22"], locked) == [
        "debian:bookworm-slim",
        "python:3.13.9-alpine3.22",
    ]


def test_the_pins_of_this_tree_can_be_asked_about():
    pinned = yaml.safe_load((ROOT / "group_vars" / "all" / "artifacts.yml").read_text())["artifacts_binaries"]
    assert [each["bundle"] for each in pinned if each.get("upstream") and not each.get("repository")] == []
    assert [each["bundle"] for each in pinned if not lines.version(str(each["version"]))] == []
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert "action actions/checkout" in [pin.what for pin in pins.actions(workflows, ROOT)]


# --- asking ---------------------------------------------------------------------------------------------------


def test_pins_are_asked_about_beside_each_other_and_told_in_their_order():
    together = threading.Barrier(3)

    def pin(name: str, wait: bool) -> Pin:
        return Pin(name, "1", lambda: Answer(str(together.wait(10) * 0) if wait else name))

    rows = pins.ask([pin("a", True), pin("b", True), pin("c", True), pin("d", False)], lambda who: None)
    assert [(row.what, row.answer and row.answer.newest) for row in rows] == [
        ("a", "0"),
        ("b", "0"),
        ("c", "0"),
        ("d", "d"),
    ]


def test_who_is_waited_for_is_told():
    told: list[str] = []
    answered = threading.Event()

    def tell(who: str) -> None:
        told.append(who)
        answered.set()

    def slow() -> Answer:
        assert answered.wait(10)
        return Answer("2")

    rows = pins.ask([Pin("quick", "1", lambda: Answer("1")), Pin("slow", "1", slow)], tell, patience=0.2)
    assert [row.answer for row in rows] == [Answer("1"), Answer("2")]
    assert told[0] == "slow"


def test_a_pin_that_nobody_answers_for_is_a_row_with_its_reason():
    def refuse() -> Answer:
        raise NotAskedError("no such host")

    (row,) = pins.ask([Pin("bundle a", "1.0", refuse)], lambda who: None)
    assert row == Row("bundle a", "1.0", None, "no such host")


def test_a_program_that_is_missing_is_named_with_its_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotAskedError, match=r"skopeo is not here \(on Debian: apt-get install skopeo\)"):
        programs.image_tags("python")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"version": "1.0.0"}, ["repository", "group_vars/all/artifacts.yml"]),
        ({"version": "1.0.0-rc1", "repository": "x"}, ["'1.0.0-rc1'", "numbers", "group_vars/all/artifacts.yml"]),
    ],
)
def test_a_bundle_that_nobody_can_be_asked_about_says_what_is_wrong(given, words):
    with pytest.raises(NotAskedError) as found:
        pins.bundle({"bundle": "a", "upstream": [{}], **given}).ask()
    for word in words:
        assert word in str(found.value)


def test_the_actions_of_workflows_are_found_once(tmp_path):
    steps = "\n".join(
        f"      - uses: {used}" for used in ("a/b@v1", "./here", "docker://alpine:3", "a/c/sub@v2", "a/b@v1")
    )
    (tmp_path / "one.yml").write_text(f"on: push\njobs:\n  x:\n    steps:\n{steps}\n      - run: uses x\n")
    (tmp_path / "two.yml").write_text("jobs: {y: {uses: a/d/.github/workflows/z.yml@v3}}")
    found = pins.actions([tmp_path / "one.yml", tmp_path / "two.yml"], tmp_path)
    assert [(pin.what, pin.pinned) for pin in found] == [
        ("action a/b", "v1"),
        ("action a/c/sub", "v2"),
        ("action a/d/.github/workflows/z.yml", "v3"),
    ]


# --- telling --------------------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_pin_and_below_what_to_do():
    rows = [
        Row("bundle a", "1.0.0", Answer("1.2.0", "1.0.3 is the newest of 1.0", "pins.yml: version: 1.2.0 in bundle a")),
        Row("digest debian:bookworm-slim", OLD, Answer(OLD, text=OLD)),
        Row("lock x.txt", "3 pinned", Answer("1 differ", "", "x.txt:\n    a 1 → 2", "a==2")),
        Row("action a/b", "v1", None, "no such host"),
    ]
    report = Report(rows)
    assert [text for text, _ in report.table] == [
        "WHAT                         PINNED               NEWEST               NOTE",
        "bundle a                     1.0.0                1.2.0                1.0.3 is the newest of 1.0",
        "digest debian:bookworm-slim  sha256:000000000000  sha256:000000000000",
        "lock x.txt                   3 pinned             1 differ",
        "action a/b                   v1                   ?                    not asked, see below",
    ]
    assert dict(report.sections)["Change"] == ["pins.yml: version: 1.2.0 in bundle a"]
    assert dict(report.sections)["`make lock` changes"] == ["x.txt:\n    a 1 → 2"]
    assert dict(report.sections)["Not asked"][0] == "action a/b: no such host"
    assert report.summary == "2 of 4 pins are not the newest of their line, 1 could not be asked about"
    assert [title for title, _ in Report(rows, [rows[2]]).sections] == ["Change", "Written", "Not asked"]
    assert Report(rows[1:2]).sections == []


# --- git ------------------------------------------------------------------------------------------------------


def repository(folder: Path, tags: list[str]) -> None:
    """A bare repository that any web server can serve."""
    folder.mkdir(parents=True)

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(folder), *arguments]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
        ).stdout.strip()

    git("init", "--bare", "--quiet")
    commit = git("commit-tree", git("mktree"), "-m", "x")
    for name in tags:
        git("tag", "--annotate", "-m", name, name, commit)
    git("update-server-info")


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of the repositories in `tmp_path / "forge"`."""
    folder = tmp_path / "forge"

    def answer(path: str) -> tuple[int, bytes]:
        file = folder / path.partition("?")[0].lstrip("/")
        return (200, file.read_bytes()) if file.is_file() else (404, b"")

    with served(answer) as url:
        yield url


def test_git_says_the_tags_of_a_repository(tmp_path, forge):
    repository(tmp_path / "forge" / "a" / "b", ["v1.0.0", "v1.1.0-rc1"])
    assert programs.git_tags(f"{forge}/a/b") == ["v1.0.0", "v1.1.0-rc1"]


def test_a_repository_that_is_not_there_is_told_in_gits_words(forge):
    with pytest.raises(NotAskedError, match=rf"repository '{forge}/a/none/' not found"):
        programs.git_tags(f"{forge}/a/none")


def test_a_server_that_is_silent_is_not_waited_for_and_nothing_of_git_stays(silent_url, monkeypatch):
    monkeypatch.setattr(programs, "GIT_LIMIT", 1)
    started = time.monotonic()
    with pytest.raises(NotAskedError, match="no answer within 1 s"):
        programs.git_tags(silent_url)
    assert time.monotonic() < started + 4
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not [command for command in commands if silent_url.encode() in command]


# --- skopeo ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    for program in ("docker-registry", "skopeo"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not here: make unit installs it for root, else: apt-get install {program}")
    with registry_served() as found:
        yield found


def push(registry: Registry, name: str, tag: str, content: str = "") -> str:
    """Have an image for two architectures under a tag; the digest of its index."""
    architectures = ("amd64", "arm64")
    single = {arch: registry.push(name, f"{tag}-{arch}", small_layer(content), arch) for arch in architectures}
    return registry.push_index(name, tag, single)


@pytest.fixture
def home(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user whose skopeo knows the registry, which has no TLS, and has docker.io's images from it."""
    found = tmp_path / "home"
    settings = found / ".config" / "containers" / "registries.conf"
    settings.parent.mkdir(parents=True)
    here = f'location = "{registry.address}"\ninsecure = true\n'
    settings.write_text(f'[[registry]]\n{here}\n[[registry]]\nprefix = "docker.io"\n{here}')
    monkeypatch.setenv("HOME", str(found))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return found


def test_skopeo_says_the_tags_of_an_image_and_the_digest_of_its_index(registry, home):
    first, second = (push(registry, "library/asked", name, name) for name in ("1.0", "1.1"))
    assert first != second
    assert {"1.0", "1.1"} < set(programs.image_tags(f"{registry.address}/library/asked"))
    assert programs.image_digest(f"{registry.address}/library/asked:1.0") == first
    assert programs.image_digest("asked:1.1") == second, "an image of docker.io, which this user has from elsewhere"


def test_an_image_that_is_not_there_is_told_in_skopeos_words(registry, home):
    with pytest.raises(NotAskedError, match=r'^Error parsing image name "docker://none:1\.0": .*manifest unknown$'):
        programs.image_digest("none:1.0")


# --- uv -------------------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str) -> None:
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as packed:
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{info}/RECORD", "")


def flat_index(root: Path) -> Path:
    """A folder of wheels, which uv takes as the index of all files of requirements in `root`."""
    (root / "uv.toml").write_text('no-index = true\nfind-links = ["wheels"]\ncache-dir = "cache"\n')
    return root / "wheels"


def test_a_lock_has_the_newest_that_its_requirements_allow(tmp_path):
    index = flat_index(tmp_path)
    for version in ("1.0", "1.1", "2.0"):
        wheel(index, "probe", version)
    (tmp_path / "requirements.in").write_text("probe<2\n")
    (tmp_path / "requirements.txt").write_text("probe==1.0\n")
    text = programs.lock(tmp_path / "requirements.in", tmp_path)
    assert re.fullmatch(
        r"# Locked from requirements.in: every file that may be installed, by its sha256.\n"
        r"probe==1.1 \\\n    --hash=sha256:[0-9a-f]{64}\n    # via -r requirements.in\n",
        text,
    )


def test_requirements_that_nothing_fulfils_are_told_in_uvs_words(tmp_path):
    wheel(flat_index(tmp_path), "probe", "1.0")
    (tmp_path / "requirements.in").write_text("probe>3\n")
    with pytest.raises(NotAskedError, match=r"^error: No solution found .* only probe==1\.0 is available"):
        programs.lock(tmp_path / "requirements.in", tmp_path)


# --- the playbook ---------------------------------------------------------------------------------------------

WORKFLOW = "jobs: {test: {steps: [{uses: actions/checkout@v5}, {uses: actions/setup@v6}]}}\n"


class Tree:
    """A tree with the real playbook and pins of its own, among servers on loopback."""

    def __init__(self, root: Path, registry: Registry, forge: str) -> None:
        self.root, self.registry, self.forge = root, registry, forge
        self.base = f"{registry.address}/library/python"
        shutil.copytree(ROOT / "playbooks", root / "playbooks")
        self.write(".github/workflows/test.yml", WORKFLOW)
        self.write("app/Dockerfile", f"ARG BASE_IMAGE={self.base}:3.13.7-alpine3.22\nFROM ${{BASE_IMAGE}}\n")
        self.write("requirements.in", "probe\n")
        self.write("requirements.txt", "probe==1.0\n")
        self.write("app/requirements.in", "other\n")
        self.pins("a/b")
        self.lock = self.write("group_vars/all/images.lock.yml", "# Why.\n")
        for version in ("1.0", "1.1"):
            wheel(flat_index(root), "probe", version)
        wheel(root / "wheels", "other", "1.0")
        self.write("app/requirements.txt", programs.lock(root / "app" / "requirements.in", root))

    def write(self, name: str, text: str) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def pins(self, repository: str) -> None:
        bundles = [
            {
                "bundle": "agent",
                "version": "1.0.0",
                "repository": f"{self.forge}/{repository}",
                "upstream": [{"url": "x"}],
            },
            {"bundle": "load", "version": "0.1.0", "debian": {"suite": "bookworm"}},
        ]
        images = [{"name": "sensor", "context": "{{ playbook_dir | dirname }}/app"}]
        held = {"artifacts_binaries": bundles, "artifacts_images": images}
        self.write("group_vars/all/artifacts.yml", yaml.safe_dump(held))

    def locked(self, **digests: str) -> None:
        text = f"# Why.\n{pins.DIGESTS}:\n"
        self.lock.write_text(text + "".join(f'  {image}: "{digest}"\n' for image, digest in digests.items()))

    def run(self, *arguments: str) -> tuple[int, str]:
        """The playbook's exit code, and what it printed before Ansible's own words on a failure."""
        environment = {
            **os.environ,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{self.forge}/.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/",
        }
        command = ["ansible-playbook", "playbooks/outdated.yml", *arguments]
        done = ansible_runs.run(*command, environment=environment, directory=self.root)
        return done.returncode, re.sub(r"\nTASK \[outdated : Ask about.*", "", done.stdout, flags=re.DOTALL)


@pytest.fixture
def tree(tmp_path: Path, registry: Registry, home: Path, forge: str) -> Tree:
    repository(tmp_path / "forge" / "a" / "b", ["v1.0.0", "v1.0.1", "v1.2.0"])
    repository(tmp_path / "forge" / "actions" / "checkout", ["v5", "v6", "v6.1.0"])
    repository(tmp_path / "forge" / "actions" / "setup", ["v6"])
    (tmp_path / "tree").mkdir()
    return Tree(tmp_path / "tree", registry, forge)


def row(printed: str, what: str) -> list[str]:
    """The cells of a line of the table."""
    (found,) = [line for line in printed.splitlines() if line.startswith(f"{what}  ")]
    return re.split(r"\s{2,}", found)[1:]


def content(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "cache" not in path.parts}


def test_every_pin_is_told_with_what_to_change_and_nothing_is_written(tree):
    python = push(tree.registry, "library/python", "3.13.7-alpine3.22")
    push(tree.registry, "library/python", "3.13.9-alpine3.22", "newer")
    push(tree.registry, "library/python", "3.13.8-alpine3.23", "newer Alpine")
    moved = push(tree.registry, "library/debian", "bookworm-slim", "moved")
    tree.locked(**{f"{tree.base}:3.13.7-alpine3.22": python, "debian:bookworm-slim": OLD})
    before = content(tree.root)
    code, printed = tree.run()
    assert code == 0, printed
    assert row(printed, "bundle agent") == ["1.0.0", "1.2.0", "1.0.1 is the newest of 1.0"]
    assert row(printed, "bundle load") == ["0.1.0", "-", "comes from Debian bookworm alone"]
    found = ["3.13.7-alpine3.22", "3.13.9-alpine3.22", "3.13.8-alpine3.23 is on a newer alpine"]
    assert row(printed, f"image {tree.base}") == found
    assert row(printed, f"digest {tree.base}:3.13.7-alpine3.22") == [python[:19], python[:19]]
    assert row(printed, "digest debian:bookworm-slim") == [OLD[:19], moved[:19], "the tag has moved"]
    assert row(printed, "lock requirements.txt") == ["1 pinned", "1 differ"]
    assert row(printed, "lock app/requirements.txt") == ["1 pinned", "the same"]
    assert row(printed, "action actions/checkout") == ["v5", "v6"]
    assert row(printed, "action actions/setup") == ["v6", "v6"]
    below = printed[printed.index("\nChange:") :]
    assert below.splitlines()[1:12] == [
        "Change:",
        "  group_vars/all/artifacts.yml: version: 1.2.0 in bundle agent (or 1.0.1)",
        f"  app/Dockerfile: ARG BASE_IMAGE={tree.base}:3.13.9-alpine3.22, then `make lock`",
        "  .github/workflows/test.yml: uses: actions/checkout@v6",
        "",
        "`make lock` changes:",
        "  group_vars/all/images.lock.yml: debian:bookworm-slim",
        "  requirements.txt:",
        "    probe 1.0 → 1.1",
        "",
        "5 of 9 pins are not the newest of their line",
    ]
    assert content(tree.root) == before


def test_who_cannot_be_asked_is_named_and_the_rest_is_told(tree):
    tree.pins("a/none")
    tree.locked(**{"debian:none-slim": OLD})
    push(tree.registry, "library/python", "3.13.7-alpine3.22")
    code, printed = tree.run()
    assert code == 2
    assert row(printed, "bundle agent") == ["1.0.0", "?", "not asked, see below"]
    assert row(printed, "lock requirements.txt") == ["1 pinned", "1 differ"]
    assert row(printed, f"digest {tree.base}:3.13.7-alpine3.22")[2] == "not locked yet"
    assert f"\n  bundle agent: fatal: repository '{tree.forge}/a/none/' not found" in printed
    assert '\n  digest debian:none-slim: Error parsing image name "docker://debian:none-slim": ' in printed
    assert printed.endswith(", 2 could not be asked about\n")


WRITE = ("-e", "outdated_write=true")


def test_locks_are_written_when_asked_for_and_are_then_the_newest(tree):
    digests = {
        f"{tree.base}:3.13.7-alpine3.22": push(tree.registry, "library/python", "3.13.7-alpine3.22"),
        "debian:bookworm-slim": push(tree.registry, "library/debian", "bookworm-slim", "moved"),
    }
    tree.locked(**{f"{tree.base}:3.13.1-alpine3.22": OLD, "debian:bookworm-slim": OLD})
    old = (tree.root / "app" / "requirements.txt").read_text()
    (tree.root / "app" / "requirements.txt").write_text(old.replace("sha256:", "sha256:0"))
    before = content(tree.root)
    code, printed = tree.run(*WRITE, "--check")
    assert (code, "`make lock` changes:" in printed, content(tree.root)) == (0, True, before)
    code, printed = tree.run(*WRITE)
    assert code == 0, printed
    assert "\nWritten:\n  group_vars/all/images.lock.yml: " in printed
    assert tree.lock.read_text().startswith("# Why.\n")
    assert yaml.safe_load(tree.lock.read_text()) == {pins.DIGESTS: digests}
    assert pins.locked_packages((tree.root / "requirements.txt").read_text()) == {"probe": "1.1"}
    assert (tree.root / "app" / "requirements.txt").read_text() == old, "a file of the same version is another one"
    assert tree.run(*WRITE)[1].endswith("\n0 of 4 pins are not the newest of their line\n")


def test_a_lock_that_cannot_be_asked_about_stays_as_it_is(tree):
    push(tree.registry, "library/debian", "bookworm-slim", "moved")
    tree.locked(**{f"{tree.base}:3.13.7-alpine3.22": OLD, "debian:bookworm-slim": OLD, "debian:none-slim": OLD})
    (tree.root / "app" / "requirements.in").write_text("other>9\n")
    before = content(tree.root)
    code, printed = tree.run(*WRITE)
    assert code == 2
    assert "\n  digest debian:none-slim: Error parsing image name" in printed
    assert "\n  lock app/requirements.txt: error: No solution found" in printed
    assert "\nWritten:\n  requirements.txt:\n    probe 1.0 → 1.1\n\n" in printed
    assert "`make lock` changes:\n  group_vars/all/images.lock.yml: " in printed
    changed = {path for path, data in content(tree.root).items() if before[path] != data}
    assert changed == {tree.root / "requirements.txt"}


def test_the_lock_beside_an_inventory_elsewhere_is_the_one_that_counts(tree, tmp_path):
    digest = push(tree.registry, "library/python", "3.13.7-alpine3.22")
    tree.locked(**{f"{tree.base}:3.13.7-alpine3.22": OLD})
    before = tree.lock.read_text()
    shutil.copytree(tree.root / "group_vars", tmp_path / "fleet" / "group_vars")
    (tmp_path / "fleet" / "robots.yml").write_text("robots: {hosts: {robot-1: {}}}\n")
    code, printed = tree.run(*WRITE, "-i", "../fleet/robots.yml")
    assert code == 0, printed
    assert tree.lock.read_text() == before
    assert digest in (tmp_path / "fleet" / "group_vars" / "all" / "images.lock.yml").read_text()
