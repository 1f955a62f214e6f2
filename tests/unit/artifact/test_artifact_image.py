from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import (
    Entry,
    Store,
    relative_path,
    sha256_file,
)
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import base_images, images
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.base_images import (
    Base,
    Tell,
    Wanted,
    python_base,
)
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.images import BuildError, Image
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.sources import SourceError, UnreachableSource
from jinja2 import Environment

from conftest import Script

TOP = Path(__file__).parents[3]
DOCKERFILE = """\
ARG BASE_IMAGE=python:3.13-alpine
ARG VERSION=unknown
FROM ${BASE_IMAGE} AS build
COPY wheels/ wheels/
COPY requirements.txt pyproject.toml \\
     ./
COPY --chown=0:0 src/ /opt/lib/
FROM ${BASE_IMAGE}
COPY --from=build /opt/lib /opt/lib
"""
FALLBACK = python_base("trixie", ("python3", "dash"))
LOCK = {"python:3.13-alpine": "sha256:11"}
PINNED = "python:3.13-alpine@sha256:11"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "src/pkg/__pycache__").mkdir(parents=True)
    for name, text in {
        "Dockerfile": DOCKERFILE,
        "requirements.txt": "flask==3.1.3 --hash=sha256:00\n",
        "requirements-gpu.txt": "nvidia-ml-py==13 --hash=sha256:01\n",
        "requirements-mqtt.txt": "paho-mqtt==2 --hash=sha256:02\n",
        "pyproject.toml": "",
        "README.md": "not copied",
        "src/pkg/__init__.py": "",
        "src/pkg/__pycache__/__init__.pyc": "",
    }.items():
        (folder / name).write_text(text)
    (tmp_path / "lock.txt").write_text(
        "# a lock\npathspec==1 \\\n    --hash=sha256:11\n"
        "pip==26.3 \\\n    --hash=sha256:22 \\\n    --hash=sha256:33\n    # via -r requirements.in\n"
        "pluggy==1 \\\n    --hash=sha256:44\n"
    )
    return folder


@pytest.fixture
def image(context: Path) -> Image:
    pip = (sys.executable, "-m", "pip")
    lock = context.parent / "lock.txt"
    return Image("sensor", "0.1.0", "x86_64", context, pip, lock, FALLBACK, "auto", LOCK)


def inputs(image: Image, base_id: str = "sha256:aa") -> str:
    dockerfile = images.read_dockerfile(image.context / "Dockerfile")
    files = images.context_files(image.context, [*dockerfile.copied, *images.extra_locks(image)])
    return images.inputs_of(image, files, base_id)


# --- what an image is made of


def test_the_dockerfile_says_what_it_wants(context: Path) -> None:
    dockerfile = images.read_dockerfile(context / "Dockerfile")
    assert (dockerfile.base_argument, dockerfile.base) == ("BASE_IMAGE", "python:3.13-alpine")
    assert dockerfile.copied == ("pyproject.toml", "requirements.txt", "src")
    assert dockerfile.arguments == {"BASE_IMAGE", "VERSION"}


def test_a_base_that_is_no_argument_is_refused(context: Path) -> None:
    (context / "Dockerfile").write_text("FROM python:3.13-alpine\n")
    with pytest.raises(BuildError, match="the base must be an argument"):
        images.read_dockerfile(context / "Dockerfile")


def test_a_context_without_dockerfile_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"Dockerfile is not there; correct the image's context"):
        images.read_dockerfile(tmp_path / "Dockerfile")


def test_the_context_is_what_is_copied_without_bytecode(context: Path) -> None:
    files = images.context_files(context, ["requirements.txt", "src"])
    assert [str(file) for file in files] == ["Dockerfile", "requirements.txt", "src/pkg/__init__.py"]


def test_a_copied_path_that_is_missing_is_named(context: Path) -> None:
    with pytest.raises(BuildError, match=r"copies compile\.py, which is not in"):
        images.context_files(context, ["compile.py"])


@pytest.mark.parametrize("name", ["Dockerfile", "requirements.txt", "src/pkg/__init__.py"])
def test_a_changed_file_is_another_input(image: Image, name: str) -> None:
    before = inputs(image)
    path = image.context / name
    path.write_text(path.read_text() + "\n# changed\n")
    assert inputs(image) != before


def test_another_base_architecture_or_pip_is_another_input(image: Image) -> None:
    variants = {
        inputs(image),
        inputs(image, "sha256:bb"),
        inputs(replace(image, arch="aarch64")),
    }
    image.pip_lock.write_text("pip==27 --hash=sha256:55\n")
    assert len(variants | {inputs(image)}) == 4


def test_what_is_not_copied_is_no_input(image: Image) -> None:
    before = inputs(image)
    (image.context / "README.md").write_text("changed")
    (image.context / "src/pkg/__pycache__/__init__.pyc").write_text("changed")
    image.pip_lock.write_text(image.pip_lock.read_text().replace("pluggy==1", "pluggy==2"))
    assert inputs(image) == before


def test_extras_are_inputs_whatever_their_order(image: Image) -> None:
    both = replace(image, extras=("mqtt", "gpu"))
    assert inputs(both) == inputs(replace(image, extras=("gpu", "mqtt", "gpu")))
    assert images.extra_locks(replace(image, extras=("mqtt", "gpu", "mqtt"))) == images.extra_locks(both)
    assert len({inputs(image), inputs(both), inputs(replace(image, extras=("mqtt",)))}) == 3
    before = inputs(both), inputs(image)
    (image.context / "requirements-gpu.txt").write_text("nvidia-ml-py==14 --hash=sha256:03\n")
    assert (inputs(both) != before[0], inputs(image) == before[1]) == (True, True)


def test_an_extra_that_is_not_there_is_named(image: Image) -> None:
    with pytest.raises(BuildError) as caught:
        images.extra_locks(replace(image, extras=("mqtt", "cuda")))
    assert str(caught.value) == (
        f"artifacts_sensor_extras has 'cuda', and {image.context} no requirements-cuda.txt; the extras there are: "
        "gpu, mqtt (set in group_vars/all/artifacts.yml)"
    )


def test_the_pin_of_pip_is_taken_with_its_hashes(image: Image) -> None:
    wanted = "pip==26.3 \\\n    --hash=sha256:22 \\\n    --hash=sha256:33\n"
    assert images.pip_requirement(image.pip_lock) == wanted


def test_a_lock_without_pip_is_refused(image: Image) -> None:
    image.pip_lock.write_text("pip-tools==7\n")
    with pytest.raises(BuildError, match="does not pin pip"):
        images.pip_requirement(image.pip_lock)


@pytest.mark.parametrize(
    ("soabi", "first", "last"),
    [
        ("cpython-313-x86_64-linux-musl", "musllinux_1_2_aarch64", "musllinux_1_1_aarch64"),
        ("cpython-313-aarch64-linux-gnu", "manylinux_2_34_aarch64", "manylinux2014_aarch64"),
    ],
)
def test_the_base_decides_which_wheels_fit(soabi: str, first: str, last: str) -> None:
    options = images.wheel_options(soabi, "aarch64")
    assert options[:6] == ["--implementation", "cp", "--python-version", "3.13", "--abi", "cp313"]
    platforms = [word for word in options if "linux" in word]
    assert (platforms[0], platforms[-1]) == (first, last)


def test_an_unknown_python_is_refused() -> None:
    with pytest.raises(BuildError, match="pypy"):
        images.wheel_options("pypy311-pp73-x86_64-linux-gnu", "x86_64")


# --- when it is current, and on which base


def stored(store: Store, image: Image, base: str, base_id: str) -> Entry:
    digest = inputs(image, base_id)
    with store.staging() as staging:
        packed = staging / "image.tar.gz"
        packed.write_bytes(b"image")
        entry = Entry(
            name="sensor",
            version=f"0.1.0-{digest[:8]}",
            requested="0.1.0",
            arch="x86_64",
            kind="image",
            file=relative_path("sensor", f"0.1.0-{digest[:8]}", "x86_64", "sensor.tar.gz"),
            size=5,
            sha256=sha256_file(packed),
            source="a test",
            image_id="sha256:cc",
            reference=f"localhost/roverwatch/sensor:0.1.0-{digest[:8]}",
            base_image=f"{base}@{base_id}",
            inputs=digest,
        )
        store.add(entry, packed)
    return entry


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Images of a local engine that is not there."""
    present: dict[str, str] = {}
    monkeypatch.setattr(images, "local_image", lambda name, *_: present.get(name))
    return present


@pytest.mark.parametrize(
    ("base", "source", "current"),
    [
        (PINNED, "auto", True),
        (PINNED, "upstream", True),
        (PINNED, "debian", False),
        ("python:3.13-alpine", "upstream", True),
        ("python:3.13-alpine@sha256:22", "auto", False),
        ("roverwatch/python-base:trixie", "auto", True),
        ("roverwatch/python-base:trixie", "upstream", False),
        ("roverwatch/python-base:trixie", "debian", True),
        ("python:3.12-alpine", "auto", False),
    ],
)
def test_an_image_is_current_by_its_base(
    tmp_path: Path, image: Image, local: dict[str, str], *, base: str, source: str, current: bool
) -> None:
    store = Store(tmp_path / "store")
    stored(store, image, base, "sha256:aa")
    built = images.ensure(store, replace(image, source=source), print, dry_run=True)
    assert built.changed is not current


def test_without_an_engine_a_current_image_is_still_current(
    tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    entry = stored(store, image, "python:3.13-alpine", "sha256:aa")
    monkeypatch.setenv("PATH", str(tmp_path))
    built = images.ensure(store, image, print)
    assert (built.entry, built.changed) == (entry, False)
    assert built.message == "sensor 0.1.0 x86_64: in the store, on python:3.13-alpine@sha256:aa"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A registry that cannot be reached, and what it was asked for."""
    names: list[str] = []

    def choose(wanted: Wanted, tell: Tell) -> Base:
        names.append(wanted.name)
        raise UnreachableSource("no such host")

    monkeypatch.setattr(images, "choose", choose)
    return names


def test_a_stand_in_stays_where_the_registry_cannot_be_reached(
    tmp_path: Path, image: Image, local: dict[str, str], asked: list[str]
) -> None:
    store = Store(tmp_path / "store")
    entry = stored(store, image, FALLBACK.tag("x86_64"), "sha256:aa")
    built = images.ensure(store, image, print)
    assert (built.entry, built.changed, asked) == (entry, False, ["python:3.13-alpine"])
    assert built.message == "sensor 0.1.0 x86_64: in the store, on roverwatch/python-base:trixie@sha256:aa"
    assert built.not_as_pinned == (
        "sensor 0.1.0 x86_64 (on roverwatch/python-base:trixie@sha256:aa, because no such host)"
    )


def test_a_stand_in_goes_as_soon_as_the_registry_can_be_reached(
    tmp_path: Path, image: Image, local: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    stored(store, image, FALLBACK.tag("x86_64"), "sha256:aa")

    def choose(wanted: Wanted, tell: Tell) -> Base:
        assert wanted.fallback is None
        return Base(PINNED, "sha256:bb", ", pulled by its digest")

    def build(staging: Path, *_: object) -> tuple[Entry, Path]:
        (staging / "image.tar.gz").write_bytes(b"image")
        return replace(entry, base_image=f"{PINNED}@sha256:bb"), staging / "image.tar.gz"

    entry = store.entries()[0]
    monkeypatch.setattr(images, "choose", choose)
    monkeypatch.setattr(images, "_build", build)
    built = images.ensure(store, image, print)
    assert built.changed
    assert built.message == f"sensor 0.1.0 x86_64: built on {PINNED}, pulled by its digest"
    assert built.not_as_pinned == ""


def test_what_is_as_it_was_asked_for_asks_nobody(
    tmp_path: Path, image: Image, local: dict[str, str], asked: list[str]
) -> None:
    for base, source, why in ((PINNED, "auto", ""), (FALLBACK.tag("x86_64"), "debian", "its source is debian)")):
        store = Store(tmp_path / source)
        stored(store, image, base, "sha256:aa")
        built = images.ensure(store, replace(image, source=source), print)
        assert not built.changed
        assert built.not_as_pinned.endswith(why)
        assert bool(built.not_as_pinned) == bool(why)
    assert asked == []


def test_what_is_built_on_the_fallback_is_not_as_pinned(
    tmp_path: Path, image: Image, local: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Base(FALLBACK.tag("x86_64"), "sha256:aa", ", because no such host")
    entry = stored(Store(tmp_path / "other"), image, base.name, base.image_id)

    def build(staging: Path, *_: object) -> tuple[Entry, Path]:
        (staging / "image.tar.gz").write_bytes(b"image")
        return entry, staging / "image.tar.gz"

    monkeypatch.setattr(images, "choose", lambda *_: base)
    monkeypatch.setattr(images, "_build", build)
    built = images.ensure(Store(tmp_path / "store"), image, print)
    assert built.not_as_pinned == f"sensor 0.1.0 x86_64 (on {base.name}@sha256:aa, because no such host)"


def test_a_dry_run_asks_nobody(tmp_path: Path, image: Image, local: dict[str, str], asked: list[str]) -> None:
    store = Store(tmp_path / "store")
    assert images.ensure(store, image, print, dry_run=True).changed
    stored(store, image, FALLBACK.tag("x86_64"), "sha256:aa")
    assert not images.ensure(store, image, print, dry_run=True).changed
    assert asked == []


def test_what_is_not_there_and_cannot_be_had_is_an_error(
    tmp_path: Path, image: Image, local: dict[str, str], asked: list[str]
) -> None:
    with pytest.raises(SourceError, match="no such host"):
        images.ensure(Store(tmp_path / "store"), image, print)


def test_a_newer_base_in_the_engine_makes_an_image_old(tmp_path: Path, image: Image, local: dict[str, str]) -> None:
    store = Store(tmp_path / "store")
    stored(store, image, "python:3.13-alpine", "sha256:aa")
    local["python:3.13-alpine"] = "sha256:bb"
    assert images.ensure(store, image, print, dry_run=True).changed


def test_a_damaged_image_is_not_current(tmp_path: Path, image: Image, local: dict[str, str]) -> None:
    store = Store(tmp_path / "store")
    entry = stored(store, image, "python:3.13-alpine", "sha256:aa")
    store.path(entry).write_bytes(b"malware")
    built = images.ensure(store, image, print, dry_run=True)
    assert built.changed
    assert "was changed after it entered" in built.damaged[0]


def test_a_changed_source_makes_an_image_old(tmp_path: Path, image: Image, local: dict[str, str]) -> None:
    store = Store(tmp_path / "store")
    stored(store, image, "python:3.13-alpine", "sha256:aa")
    (image.context / "src/pkg/__init__.py").write_text("changed = True\n")
    assert images.ensure(store, image, print, dry_run=True).changed


def test_other_extras_make_an_image_old(tmp_path: Path, image: Image, local: dict[str, str]) -> None:
    store = Store(tmp_path / "store")
    stored(store, image, "python:3.13-alpine", "sha256:aa")
    assert not images.ensure(store, image, print, dry_run=True).changed
    assert images.ensure(store, replace(image, extras=("mqtt",)), print, dry_run=True).changed


# --- what docker says, played by a script


def test_a_build_for_another_architecture_names_what_it_lacks(docker: Script) -> None:
    docker("echo exec /bin/sh: exec format error\nexit 1\n")
    with pytest.raises(BuildError, match="needs emulation: apt-get install qemu-user-static"):
        images._run(["docker", "build"], "build sensor")


def test_a_step_that_fails_shows_the_end_of_its_output(docker: Script) -> None:
    docker("seq 100\nexit 3\n")
    with pytest.raises(BuildError, match=r"(?s)^cannot build sensor:\n93\n.*100$"):
        images._run(["docker", "build"], "build sensor")


def test_the_image_id_is_the_digest_of_the_configuration(tmp_path: Path) -> None:
    packed = tmp_path / "image.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        for name, text in {"manifest.json": '[{"Config": "blobs/x"}]', "blobs/x": "{}"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    wanted = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert images.image_id_of(packed) == wanted


def engine_answers() -> bool:
    if shutil.which("docker") is None or shutil.which("mmdebstrap") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def pinned_sensor() -> dict[str, Any]:
    pinned = yaml.safe_load((TOP / "group_vars/all/artifacts.yml").read_text())["artifacts_images"]
    (sensor,) = [image for image in pinned if image["name"] == "sensor"]
    return dict(sensor)


@pytest.fixture
def real(context: Path) -> Image:
    """An image on a real base, which is made where the engine has none yet."""
    if not engine_answers():
        pytest.skip("needs a Docker engine and mmdebstrap")
    pinned = pinned_sensor()["fallback"]
    fallback = python_base(pinned["suite"], pinned["packages"])
    try:
        base_images.choose(Wanted("python:0-none", "x86_64", "", "debian", fallback), print)
    except UnreachableSource as error:
        pytest.skip(str(error))
    pip = (sys.executable, "-m", "pip")
    return Image("test", "0", "x86_64", context, pip, TOP / "requirements.txt", fallback, "debian", {})


def test_a_real_build_of_another_image_leaves_nothing_behind(tmp_path: Path, context: Path, real: Image) -> None:
    """Some 5 s."""
    (context / "Dockerfile").write_text(
        "ARG BASE_IMAGE=python:0-none\nFROM ${BASE_IMAGE} AS build\nCOPY src/ /src/\nCOPY wheels/ /wheels/\n"
        "COPY requirements.txt ./\nRUN ls /wheels/pip-*.whl && touch /built\n"
        "FROM ${BASE_IMAGE}\nCOPY --from=build /built /built\n"
    )
    (context / "requirements.txt").write_text("")
    store = Store(tmp_path / "store")
    built = images.ensure(store, real, print)
    assert built.entry is not None
    store.verify(built.entry)
    assert re.fullmatch(r"localhost/roverwatch/test:0-[0-9a-f]{8}", built.entry.reference or "")
    listing = ["docker", "image", "ls", "--all", "--no-trunc"]
    left = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    assert "localhost/roverwatch/test" not in left
    assert (built.entry.image_id or "none") not in left
    assert not images.ensure(store, real, print).changed


CONFIG = """
[[sources]]
type = "gpu"
options = {simulated_gpus = 8}
[[sources]]
type = "mqtt"
"""
SCRAPE = """
import time, urllib.request
while True:
    time.sleep(0.2)
    try:
        text = urllib.request.urlopen("http://127.0.0.1:8000/metrics").read().decode()
    except OSError:
        continue
    if "DCGM_FI_DEV_GPU_TEMP{" in text and 'sensor_loop_iterations_total{source="mqtt"}' in text:
        break
print(text)
"""


def test_the_sensors_image_has_the_extras_that_it_was_built_with(tmp_path: Path, real: Image) -> None:
    """Builds the image of app/ on a real base and runs it as a robot does; some 30 s."""
    image = replace(real, context=TOP / "app", extras=("gpu", "mqtt"))
    store = Store(tmp_path / "store")
    entry = images.ensure(store, image, print).entry
    assert entry is not None
    assert entry.reference is not None
    (tmp_path / "config.toml").write_text(CONFIG)
    tmp_path.chmod(0o755)

    def docker(*arguments: str) -> str:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    docker("load", "--input", str(store.path(entry)))
    try:
        options = ["--network", "none", "--read-only", "--cap-drop", "all", "--memory", "80m"]
        options += ["--volume", f"{tmp_path}/config.toml:/config.toml:ro", entry.reference]
        assert docker("run", "--rm", *options, "--check-config", "/config.toml") == "/config.toml: ok"
        container = docker("run", "--detach", *options, "--config", "/config.toml")
        try:
            text = docker("exec", container, "python3", "-c", SCRAPE)
        finally:
            docker("rm", "--force", container)  # with --rm its image would be in use for a moment longer
        assert text.count("DCGM_FI_DEV_GPU_TEMP{") == 8
    finally:
        docker("image", "rm", entry.reference)


def test_the_pinned_version_is_the_one_that_the_app_has() -> None:
    sensor = pinned_sensor()
    app = (TOP / "app/src/sensor_service/__init__.py").read_text()
    assert re.search(r'^__version__ = "(.+)"$', app, re.MULTILINE)[1] == sensor["version"]  # type: ignore[index]


@pytest.mark.parametrize(("extras", "source"), [([], "auto"), (["mqtt"], "auto"), (["mqtt", "gpu"], "debian")])
def test_an_image_for_gpus_has_glibc(extras: list[str], source: str) -> None:
    template = Environment(autoescape=False).from_string(pinned_sensor()["source"])
    assert template.render(artifacts_sensor_extras=extras, artifacts_source="auto") == source
