"""Base images: what the engine says of them, what a registry answers, and what is made of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import registry as registries
import yaml
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import Store
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import base_images, images
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.base_images import (
    Base,
    Fallback,
    LocalImage,
    Tell,
    Wanted,
    python_base,
)
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.sources import SourceError, UnreachableSource
from binaries import free_port
from registry import Registry, refusal, small_layer
from stopwatch import Stopwatch

from conftest import Script

TOP = Path(__file__).parents[3]
PYTHON = "library/python"
TAG = "3.13.7-alpine3.22"
FALLBACK = python_base("trixie", ("python3", "dash"))


# --- what the engine shows of an image


def test_what_the_engine_shows_is_read() -> None:
    shown = {
        "Id": "sha256:aa",
        "Architecture": "amd64",
        "Config": {"Labels": {"roverwatch.recipe": "x"}},
        "RepoTags": ["python:3"],
        "RepoDigests": ["python@sha256:bb"],
        "Size": 7,
    }
    assert LocalImage.from_inspect(shown) == LocalImage(
        "sha256:aa", "amd64", {"roverwatch.recipe": "x"}, ("python:3",), ("python@sha256:bb",), 7
    )


@pytest.mark.parametrize(
    "shown",
    [
        {"Architecture": "amd64", "Config": {"Labels": None}, "RepoTags": None, "RepoDigests": None},
        {"Architecture": "amd64", "Config": {}},
        {"Architecture": "amd64", "Config": None},
        {"Architecture": "amd64"},
    ],
)
def test_an_image_without_labels_or_config_is_an_image(shown: dict[str, Any]) -> None:
    image = LocalImage.from_inspect({"Id": "sha256:aa", **shown})
    assert (image.image_id, image.arch, image.labels, image.names, image.digests) == ("sha256:aa", "amd64", {}, (), ())


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> dict[str, LocalImage]:
    """Images of a local engine that is not there."""
    present: dict[str, LocalImage] = {}
    monkeypatch.setattr(base_images, "inspect", present.get)
    return present


def known(image_id: str, arch: str = "amd64", *digests: str, **labels: str) -> LocalImage:
    return LocalImage(image_id, arch, labels, (), digests, 1)


def test_an_image_of_another_architecture_or_recipe_is_not_the_one(local: dict[str, LocalImage]) -> None:
    local["python:3"] = known("sha256:aa")
    local["made"] = known("sha256:bb", **{base_images.FALLBACK_LABEL: "x"})
    assert base_images.local_image("python:3", "x86_64") == "sha256:aa"
    assert base_images.local_image("python:3", "aarch64") is None
    assert base_images.local_image("python:3", "x86_64", "x") is None
    assert base_images.local_image("made", "x86_64", "x") == "sha256:bb"
    assert base_images.local_image("made", "x86_64", "y") is None
    assert base_images.local_image("absent", "x86_64") is None


def test_without_an_engine_there_is_no_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert base_images.inspect("python:3") is None


# --- which base is taken


@pytest.fixture
def no_registry(monkeypatch: pytest.MonkeyPatch, local: dict[str, LocalImage]) -> None:
    def refuse(name: str, arch: str, tell: object) -> None:
        raise UnreachableSource(f"{name} cannot be pulled (no such host)")

    def make(fallback: Fallback, arch: str) -> None:
        local[fallback.tag(arch)] = known("sha256:dd", **{base_images.FALLBACK_LABEL: fallback.recipe})

    monkeypatch.setattr(base_images, "_pull", refuse)
    monkeypatch.setattr(base_images, "make_fallback", make)


LOCK = {"python:3": "sha256:11"}
PINNED = "python:3@sha256:11"


def choose(source: str = "auto", fallback: Fallback | None = FALLBACK, lock: dict[str, str] | None = None) -> Base:
    digest = (LOCK if lock is None else lock).get("python:3", "")
    return base_images.choose(Wanted("python:3", "x86_64", digest, source, fallback), print)


@pytest.mark.usefixtures("no_registry")
def test_the_fallback_is_made_where_no_registry_answers() -> None:
    note = f", because {PINNED} cannot be pulled (no such host)"
    assert choose() == Base(FALLBACK.tag("x86_64"), "sha256:dd", note)


@pytest.mark.usefixtures("no_registry")
def test_no_registry_is_asked_where_debian_is_the_source() -> None:
    assert choose("debian") == Base(FALLBACK.tag("x86_64"), "sha256:dd")


@pytest.mark.usefixtures("no_registry")
def test_a_fallback_of_another_recipe_is_made_again(local: dict[str, LocalImage]) -> None:
    local[FALLBACK.tag("x86_64")] = known("sha256:cc", **{base_images.FALLBACK_LABEL: "old"})
    assert choose().image_id == "sha256:dd"


@pytest.mark.usefixtures("no_registry")
@pytest.mark.parametrize(("source", "fallback"), [("upstream", FALLBACK), ("auto", None)])
def test_without_a_fallback_the_registry_must_answer(source: str, fallback: Fallback | None) -> None:
    with pytest.raises(UnreachableSource):
        choose(source, fallback)


@pytest.mark.usefixtures("no_registry")
def test_a_base_that_was_pulled_is_not_pulled_again(local: dict[str, LocalImage]) -> None:
    local[PINNED] = known("sha256:ee", "amd64", "python@sha256:11")
    assert choose("upstream") == Base(PINNED, "sha256:ee")


@pytest.mark.usefixtures("no_registry")
@pytest.mark.parametrize("lock", [LOCK, {}])
def test_a_base_that_was_loaded_by_hand_is_taken(local: dict[str, LocalImage], lock: dict[str, str]) -> None:
    local["python:3"] = known("sha256:ff")
    note = ", which was loaded into the engine by hand"
    assert choose("upstream", lock=lock) == Base("python:3", "sha256:ff", note)


@pytest.mark.usefixtures("no_registry")
@pytest.mark.parametrize("there", [known("sha256:ff", "amd64", "python@sha256:22"), known("sha256:ff", "arm64")])
def test_a_tag_that_was_pulled_when_it_named_something_else_is_not(
    local: dict[str, LocalImage], there: LocalImage
) -> None:
    local["python:3"] = there
    with pytest.raises(UnreachableSource):
        choose("upstream")


@pytest.mark.usefixtures("no_registry")
def test_what_the_lock_does_not_pin_is_not_pulled() -> None:
    with pytest.raises(
        SourceError, match=r"^python:3 is in no line of group_vars/all/images\.lock\.yml, .*`make lock`"
    ):
        choose(lock={})


def test_the_base_of_another_recipe_has_another_label() -> None:
    others = [python_base("trixie", ["python3"]), python_base("sid", FALLBACK.packages)]
    others.append(replace(FALLBACK, variant="minbase"))
    assert len({FALLBACK.recipe, *(other.recipe for other in others)}) == 4


def test_the_lock_pins_every_base_that_the_tree_pulls() -> None:
    pinned = yaml.safe_load((TOP / base_images.LOCK).read_text())["artifacts_base_digests"]
    wanted = {images.read_dockerfile(TOP / "app/Dockerfile").base, "debian:bookworm-slim", "debian:trixie-slim"}
    assert set(pinned) == wanted
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in pinned.values())


# --- what docker says, played by a script


@pytest.mark.parametrize("behaviour", ["exec sleep 5", "for i in 1 2 3 4 5 6; do echo wait; sleep 0.2; done"])
def test_a_registry_that_does_not_answer_is_given_up(
    docker: Script, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    docker(behaviour + "\n")
    monkeypatch.setattr(base_images, "REGISTRY_ANSWERS_WITHIN", 0.3)
    with pytest.raises(UnreachableSource, match=r"no registry answered for python:3 within 0\.3 s"):
        base_images._pull("python:3", "x86_64", print)


PULLING = "echo '3: Pulling from library/python'; echo 'aa11: Already exists'; echo 'bb22: Pulling fs layer'\n"


def test_a_registry_that_answers_may_take_its_time_and_says_how_far_it_is(
    docker: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(PULLING + "sleep 0.6\necho 'bb22: Pull complete'\nsleep 0.6\n")
    monkeypatch.setattr(base_images, "REGISTRY_ANSWERS_WITHIN", 0.3)
    monkeypatch.setattr(base_images, "PROGRESS_EVERY", 0.4)
    told: list[str] = []
    base_images._pull("python:3", "x86_64", told.append)
    assert list(dict.fromkeys(re.sub(r"\d+ s$", "n s", text) for text in told)) == [
        "pulling python:3: 1 of 2 layers after n s",
        "pulling python:3: 2 of 2 layers after n s",
    ]


def test_a_pull_that_does_not_end_is_given_up(docker: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    docker(PULLING + "exec sleep 5\n")
    monkeypatch.setattr(base_images, "PULL_TIMEOUT", 0.4)
    with pytest.raises(UnreachableSource, match=r"^python:3 was not here after 0\.4 s: 1 of 2 layers$"):
        base_images._pull("python:3", "x86_64", print)


def test_without_docker_that_is_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match=r"^docker is not on the controller"):
        base_images._pull("python:3", "x86_64", print)


# As engines have said it; what those of the tests below say is not here again.
@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("toomanyrequests: You have reached your unauthenticated pull rate limit. https://example.org/limit", "log in"),
        ("pull access denied for python, repository does not exist or may require 'docker login'", "docker login"),
        ("Get https://r.example.org/v2/: x509: certificate signed by unknown authority", "does not trust"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "is not an image for x86_64"),
        ("manifest for python:9 not found: manifest unknown: manifest unknown", "does not exist"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is it running?", "cannot be pulled"),
    ],
)
def test_what_a_registry_says_is_no_reason_to_go_elsewhere(said: str, meant: str) -> None:
    error = base_images.pull_error("python:3", "x86_64", f"3: Pulling from library/python\nError response: {said}\n")
    assert not isinstance(error, UnreachableSource)
    assert meant in str(error)
    assert said in str(error)


@pytest.mark.parametrize(
    "said",
    [
        'Get "https://r.example.org/v2/": dial tcp: lookup r.example.org on 10.0.0.53:53: no such host',
        "dial tcp: lookup r.example.org: Temporary failure in name resolution",
        'Get "https://r.example.org/v2/": dial tcp 192.0.2.1:443: i/o timeout',
        'Get "https://r.example.org/v2/": net/http: TLS handshake timeout',
        "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
        "dial tcp 192.0.2.1:443: connect: network is unreachable",
        "read tcp 192.0.2.2:40000->192.0.2.1:443: read: connection reset by peer",
        "received unexpected HTTP status: 503 Service Unavailable",
        "proxyconnect tcp: dial tcp 192.0.2.1:3128: connect: connection refused",
        "unexpected EOF",
    ],
)
def test_a_registry_that_is_not_reached_is(said: str) -> None:
    error = base_images.pull_error("python:3", "x86_64", f"Error response from daemon: {said}\n")
    assert isinstance(error, UnreachableSource)
    assert said in str(error)


def test_the_login_is_at_the_images_own_registry() -> None:
    denied = "denied: access forbidden"
    assert "`docker login r.example.org:5000`" in str(
        base_images.pull_error("r.example.org:5000/a/b:1", "x86_64", denied)
    )
    assert "`docker login`" in str(base_images.pull_error("team/b:1", "x86_64", denied))


# --- a real registry, asked by a real engine


def answers(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def running() -> Iterator[Registry]:
    for program in ("docker", "docker-registry"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not here: `make unit` installs it for root")
    if not answers("docker", "info"):
        pytest.skip("no Docker engine answers")
    with registries.served() as registry:
        yield registry


@pytest.fixture
def registry(running: Registry) -> Iterator[Registry]:
    """The registry with an honest front; what the engine has pulled from it is gone afterwards."""
    running.refuse, running.pause, running.cut = (lambda _: None), (lambda _: 0.0), (lambda _: False)
    running.requests.clear()
    yield running
    listed = ["docker", "image", "ls", "--quiet", "--filter", f"reference={running.address}/*/*"]
    for image in set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()):
        subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=True)


def pull(registry: Registry, digest: str, tell: Tell = print) -> Base:
    return base_images.here_or_pulled(Wanted(f"{registry.address}/{PYTHON}:{TAG}", "x86_64", digest), tell)


def test_an_official_image_is_pulled_once_by_its_digest(registry: Registry) -> None:
    """An index of two architectures, whose images have no labels."""
    arm = registry.push(PYTHON, "arm", arch="arm64")
    amd = registry.push(PYTHON, "amd")
    digest = registry.push_index(PYTHON, TAG, {"arm64": arm, "amd64": amd})
    told: list[str] = []
    base = pull(registry, digest, told.append)
    assert base.name == f"{registry.address}/{PYTHON}:{TAG}@{digest}"
    assert base.note == ", pulled by its digest"
    assert told == [f"pulling {base.name}"]
    assert f"GET /v2/{PYTHON}/manifests/{amd}" in registry.requests
    registry.requests.clear()
    again = pull(registry, digest)
    assert (again.name, again.image_id, again.note) == (base.name, base.image_id, "")
    assert registry.requests == []


def test_a_tag_that_has_moved_changes_nothing(registry: Registry) -> None:
    digest = registry.push(PYTHON, TAG, small_layer("first"))
    registry.push(PYTHON, TAG, small_layer("second"))
    assert pull(registry, digest).name.endswith(digest)


def test_a_config_of_nothing_is_an_image(registry: Registry) -> None:
    assert pull(registry, registry.push(PYTHON, "bare", config={})).image_id.startswith("sha256:")


def test_an_image_that_was_loaded_by_hand_is_there(registry: Registry, tmp_path: Path) -> None:
    name = f"{registry.address}/{PYTHON}:{TAG}"
    (tmp_path / "layer.tar").write_bytes(small_layer("by hand"))
    subprocess.run(["docker", "import", str(tmp_path / "layer.tar"), name], check=True, capture_output=True)
    base = pull(registry, "sha256:" + "0" * 64)
    assert (base.name, base.note) == (name, ", which was loaded into the engine by hand")
    assert registry.requests == []


@pytest.mark.parametrize("index", [True, False])
def test_an_image_for_another_architecture_is_an_error(registry: Registry, index: bool) -> None:
    digest = registry.push(PYTHON, TAG, arch="arm64")
    if index:
        digest = registry.push_index(PYTHON, TAG, {"arm64": digest})
    with pytest.raises(SourceError, match=r"is not an image for x86_64; correct its tag") as caught:
        pull(registry, digest)
    assert not isinstance(caught.value, UnreachableSource)


@pytest.mark.parametrize(
    ("refused", "meant"),
    [
        (
            refusal(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate='Basic realm="x"'),
            "docker login 127",
        ),
        (refusal(403, "DENIED", "requested access to the resource is denied"), "docker login 127"),
        (refusal(429, "TOOMANYREQUESTS", "You have reached your pull rate limit"), "refuses more pulls"),
        (refusal(404, "MANIFEST_UNKNOWN", "manifest unknown"), "does not exist"),
        (refusal(404, "NAME_UNKNOWN", "repository name not known to registry"), "does not exist"),
    ],
)
def test_a_refusal_is_an_error_and_no_fallback_is_made(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, refused: registries.Refusal, meant: str
) -> None:
    digest = registry.push(PYTHON, TAG, small_layer(meant))
    registry.refuse = lambda path: refused if "/manifests/" in path else None
    monkeypatch.setattr(base_images, "make_fallback", None)
    name = f"{registry.address}/{PYTHON}:{TAG}"
    with pytest.raises(SourceError) as caught:
        base_images.choose(Wanted(name, "x86_64", digest, "auto", FALLBACK), print)
    assert not isinstance(caught.value, UnreachableSource)
    assert meant in str(caught.value)


def test_a_registry_in_trouble_cannot_be_reached(registry: Registry) -> None:
    digest = registry.push(PYTHON, TAG, small_layer("trouble"))
    registry.refuse = lambda _: (503, {}, b"")
    with pytest.raises(UnreachableSource, match="503"):
        pull(registry, digest)


def test_a_registry_that_is_not_there_cannot_be_reached() -> None:
    name = f"127.0.0.1:{free_port()}/{PYTHON}:{TAG}"
    if not answers("docker", "info"):
        pytest.skip("no Docker engine answers")
    with pytest.raises(UnreachableSource, match="connection refused"):
        base_images.here_or_pulled(Wanted(name, "x86_64", "sha256:" + "0" * 64), print)


def test_a_registry_that_is_slow_to_name_the_image_is_given_up(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.push(PYTHON, TAG, small_layer("slow to answer"))
    registry.pause = lambda path: 3.0 if "/manifests/" in path else 0.0
    monkeypatch.setattr(base_images, "REGISTRY_ANSWERS_WITHIN", 0.5)
    watch = Stopwatch()
    with pytest.raises(UnreachableSource, match=r"no registry answered for .* within 0\.5 s"):
        pull(registry, digest)
    assert watch.seconds < 2.5


def test_a_registry_that_is_slow_afterwards_is_waited_for_with_progress(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.push(PYTHON, TAG, small_layer("slow to deliver"))
    registry.pause = lambda path: 0.1 if "/blobs/" in path else 0.0
    monkeypatch.setattr(base_images, "PROGRESS_EVERY", 0.5)
    told: list[str] = []
    pull(registry, digest, told.append)
    assert len(told) > 1
    assert all(re.search(r": 0 of 1 layers after \d s$", line) for line in told[1:])


# --- a real engine that has the registry as its mirror, as a user's has its own


@pytest.fixture
def online(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if os.geteuid() != 0:
        pytest.skip("only root can start a second Docker engine")
    if shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("dockerd is not here")
    with registries.engine(registry) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        yield host


@pytest.fixture
def python_layer(running: Registry, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A Python that runs, as the only layer of an image: that of the fallback, as a tar."""
    pinned = yaml.safe_load((TOP / "group_vars/all/artifacts.yml").read_text())["artifacts_images"][0]["fallback"]
    try:
        base = base_images.choose(Wanted("", "x86_64", "", "debian", python_base(**pinned)), print)
    except UnreachableSource as error:
        pytest.skip(str(error))
    saved = tmp_path_factory.mktemp("layer") / "saved.tar"
    subprocess.run(["docker", "save", "--output", str(saved), base.name], check=True, capture_output=True)
    with tarfile.open(saved) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest
        [name] = json.load(manifest)[0]["Layers"]
        layer = tar.extractfile(name)
        assert layer
        return layer.read()


DOCKERFILE = f"""\
ARG BASE_IMAGE=python:{TAG}
FROM ${{BASE_IMAGE}} AS build
COPY wheels/ /wheels/
COPY requirements.txt ./
RUN ls /wheels/pip-*.whl && touch /built
FROM ${{BASE_IMAGE}}
COPY --from=build /built /built
"""


def test_an_image_is_built_on_the_base_of_the_registry(
    python_layer: bytes, registry: Registry, online: str, tmp_path: Path
) -> None:
    """Pulled once by its digest, built in an engine that has nothing else, and left alone by the second run."""
    context = tmp_path / "app"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "requirements.txt").write_text("")
    base = f"python:{TAG}"
    config = {"Cmd": ["python3"], "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}
    digest = registry.push_index(PYTHON, TAG, {"amd64": registry.push(PYTHON, TAG, python_layer, config=config)})
    pip = (sys.executable, "-m", "pip")
    image = images.Image(
        "test", "0", "x86_64", context, pip, TOP / "requirements.txt", FALLBACK, "auto", {base: digest}
    )
    store = Store(tmp_path / "store")
    told: list[str] = []
    built = images.ensure(store, image, told.append)
    assert built.message == f"test 0 x86_64: built on {base}@{digest}, pulled by its digest"
    assert [line.split(": ", 1)[1].split()[0] for line in told] == ["pulling", "fetching", "building"]
    assert built.entry
    assert built.entry.base_image
    assert built.entry.base_image.startswith(f"{base}@{digest}@sha256:")
    registry.requests.clear()
    again = images.ensure(store, image, print)
    assert (again.changed, again.entry, registry.requests) == (False, built.entry, [])


def test_a_registry_that_is_gone_half_way_is_one_that_cannot_be_reached(
    registry: Registry, online: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.push("library/debian", "bookworm-slim", small_layer("gone"))
    wanted = Wanted("debian:bookworm-slim", "x86_64", digest, "auto", FALLBACK)
    registry.cut = lambda path: "/blobs/" in path
    made = threading.Event()
    monkeypatch.setattr(base_images, "make_fallback", lambda *_: made.set())
    with pytest.raises(SourceError, match="does not keep roverwatch/python-base"):
        base_images.choose(wanted, print)
    assert made.is_set()
    registry.cut = lambda _: False
    base = base_images.choose(wanted, print)
    assert base.name == wanted.pinned
