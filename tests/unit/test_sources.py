from __future__ import annotations

import ast
import io
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fake_release
import pytest
import yaml
from jinja2 import Environment
from roverwatch import sources
from roverwatch.sources import Bundle, ChecksumMismatch, Order, SourceError, UnreachableSource, fill
from roverwatch.store import Entry, Store

TOP = Path(__file__).parents[2]


@pytest.fixture
def release() -> Iterator[fake_release.Release]:
    with fake_release.served() as release:
        yield release


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def no_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> list[tuple[Entry, Path]]:
        raise AssertionError("Debian was asked")

    monkeypatch.setattr(sources, "fetch_debian", refuse)


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A Debian mirror with a package that is made on the spot; returns the suites and packages asked for."""
    asked: list[str] = []

    def download(folder: Path, suite: str, package: str, arch: str) -> Path:
        asked.append(f"{suite}/{package}/{arch}")
        return make_deb(tmp_path, package, "1:1.145.0+ds1-2", ["victoria-metrics", "vmagent"])

    monkeypatch.setattr(sources, "download_package", download)
    return asked


def make_deb(folder: Path, package: str, version: str, programs: list[str]) -> Path:
    tree = folder / "deb"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {package}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    (tree / "usr/bin").mkdir(parents=True)
    for name in programs:
        (tree / "usr/bin" / name).write_bytes(fake_release.program(name))
    target = folder / f"{package}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, target], check=True, capture_output=True)
    return target


def order(release: fake_release.Release, source: str = "auto", timeout: float = 5.0) -> Order:
    return Order(Bundle.from_dict(release.bundle()), "x86_64", source, timeout)


# --- upstream


@pytest.mark.usefixtures("no_debian")
def test_a_good_release_is_verified_and_unpacked(release: fake_release.Release, store: Store) -> None:
    filled = fill(store, order(release))
    assert filled.source_used == "upstream"
    assert filled.message == "victoriametrics 1.150.0 x86_64: fetched victoriametrics, vmagent from upstream"
    agent = store.find("vmagent", "1.150.0", "x86_64")
    store.verify(agent)
    assert store.path(agent).read_bytes() == fake_release.program("vmagent-prod")
    assert store.path(agent).stat().st_mode & 0o777 == 0o755
    assert agent.version == agent.requested == "1.150.0"
    assert "vmutils-linux-amd64-v1.150.0.tar.gz (sha256 verified against " in agent.source
    assert {entry.name for entry in filled.entries} == {"victoriametrics", "vmagent"}
    assert not list((store.root / ".staging").iterdir())


@pytest.mark.usefixtures("no_debian")
def test_the_second_fill_asks_nobody(release: fake_release.Release, store: Store) -> None:
    fill(store, order(release))
    release.requests.clear()
    filled = fill(store, order(release))
    assert release.requests == []
    assert filled.source_used == "store"
    assert filled.message == "victoriametrics 1.150.0 x86_64: in the store"
    assert len(filled.entries) == 2


@pytest.mark.usefixtures("no_debian")
def test_only_what_is_missing_is_fetched(release: fake_release.Release, store: Store) -> None:
    fill(store, order(release))
    store.path(store.find("vmagent", "1.150.0", "x86_64")).unlink()
    release.requests.clear()
    assert fill(store, order(release)).message.endswith("fetched vmagent from upstream")
    assert {path.split("-")[0] for path in release.requests} == {"/v1.150.0/vmutils"}


@pytest.mark.usefixtures("no_debian")
def test_a_tampered_archive_is_an_error_and_stores_nothing(release: fake_release.Release, store: Store) -> None:
    path = release.path("vmutils-linux-amd64-v1.150.0.tar.gz")
    release.files[path] = fake_release.archive(["vmagent-prod", "malware"])
    with pytest.raises(ChecksumMismatch, match=r"has sha256 \w{64}, but .*_checksums.txt says \w{64}"):
        fill(store, order(release))
    assert store.entries() == []


@pytest.mark.usefixtures("no_debian")
def test_a_missing_checksum_is_an_error(release: fake_release.Release, store: Store) -> None:
    path = release.path("vmutils-linux-amd64-v1.150.0_checksums.txt")
    release.files[path] = b"\n".join(release.files[path].splitlines()[1:])
    with pytest.raises(ChecksumMismatch, match="lists no sha256 of vmutils-linux-amd64"):
        fill(store, order(release))
    assert not any("vmutils" in asked and asked.endswith(".gz") for asked in release.requests)


@pytest.mark.usefixtures("no_debian")
def test_a_version_that_does_not_exist_is_an_error(release: fake_release.Release, store: Store) -> None:
    wrong = order(release)
    wrong = replace(wrong, bundle=replace(wrong.bundle, version="1.15.0"))
    with pytest.raises(SourceError, match=r"does not exist \(HTTP 404\); correct the version") as failure:
        fill(store, wrong)
    assert not isinstance(failure.value, UnreachableSource)


@pytest.mark.usefixtures("no_debian")
def test_a_path_that_is_not_in_the_archive(release: fake_release.Release, store: Store) -> None:
    bundle = release.bundle()
    bundle["upstream"][1]["files"]["vmagent"] = "bin/vmagent"  # type: ignore[index]
    with pytest.raises(SourceError, match=r"vmutils.* holds no file bin/vmagent; correct the path"):
        fill(store, Order(Bundle.from_dict(bundle), "x86_64", "auto"))
    assert store.entries() == []


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        link = tarfile.TarInfo("vmagent-prod")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar, pytest.raises(SourceError, match="holds no file vmagent"):
        sources._unpack(tar, {"vmagent": "vmagent-prod"}, tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_hangs_is_given_up(release: fake_release.Release, store: Store) -> None:
    release.hanging = True
    start = time.monotonic()
    with pytest.raises(UnreachableSource, match="timed out"):
        fill(store, order(release, "upstream", timeout=0.3))
    assert time.monotonic() - start < 2


def test_a_silent_name_server_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        time.sleep(1.2)
        raise OSError("no answer")

    monkeypatch.setattr("socket.getaddrinfo", silent)
    start = time.monotonic()
    with pytest.raises(UnreachableSource, match=r"no answer within 0\.6 s"):
        sources._first_contact("http://releases.invalid/x", 0.3)
    assert time.monotonic() - start < 1


def test_an_unknown_host_is_given_up_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(UnreachableSource, match=r"releases\.invalid"):
        sources._first_contact("http://releases.invalid/x", 5)
    assert time.monotonic() - start < 5


def test_only_http_is_spoken() -> None:
    with pytest.raises(SourceError, match="is no http URL"):
        sources._first_contact("file:///etc/passwd", 1)


def test_a_server_in_trouble_is_unreachable(release: fake_release.Release, store: Store) -> None:
    release.status[release.path("victoria-metrics-linux-amd64-v1.150.0_checksums.txt")] = 503
    with pytest.raises(UnreachableSource, match="HTTP 503"):
        fill(store, order(release, "upstream"))


def test_an_archive_that_breaks_off_is_unreachable(release: fake_release.Release, store: Store) -> None:
    release.breaks_off.add(release.path("victoria-metrics-linux-amd64-v1.150.0.tar.gz"))
    with pytest.raises(UnreachableSource, match=r"broke off after \d+ of \d+ bytes"):
        fill(store, order(release, "upstream"))


def test_a_file_that_was_damaged_is_fetched_again_loudly(release: fake_release.Release, store: Store) -> None:
    fill(store, order(release))
    agent = store.find("vmagent", "1.150.0", "x86_64")
    store.path(agent).write_bytes(b"malware")
    filled = fill(store, order(release))
    (text,) = filled.damaged
    assert str(store.path(agent)) in text
    assert "expected sha256" in text
    assert filled.source_used == "upstream"
    store.verify(agent)


def test_a_dry_run_asks_nobody_and_says_what_is_missing(release: fake_release.Release, store: Store) -> None:
    filled = fill(store, order(release), dry_run=True)
    assert filled.message == (
        "victoriametrics 1.150.0 x86_64: would fetch victoriametrics, vmagent from upstream, or from Debian "
        "where upstream cannot be reached"
    )
    assert release.requests == []
    assert not store.root.exists()


# --- Debian as the stand-in


def test_debian_stands_in_when_upstream_hangs(release: fake_release.Release, store: Store, debian: list[str]) -> None:
    release.hanging = True
    filled = fill(store, order(release, timeout=0.2))
    assert filled.source_used == "debian"
    assert filled.message.startswith("victoriametrics 1.150.0 x86_64: upstream not reachable (http://127.0.0.1:")
    assert filled.message.endswith("Debian sid's 1.145.0+ds1-2 stands in (victoriametrics, vmagent)")
    assert debian == ["sid/victoria-metrics/x86_64"]
    agent = store.find("vmagent", "1.150.0", "x86_64")
    assert (agent.version, agent.requested) == ("1.145.0+ds1-2", "1.150.0")
    assert agent.file == "vmagent/1.145.0+ds1-2/x86_64/vmagent"
    assert agent.source == "Debian sid: victoria-metrics 1:1.145.0+ds1-2 amd64"
    assert store.path(agent).read_bytes() == fake_release.program("vmagent")


@pytest.mark.usefixtures("debian")
def test_a_stand_in_satisfies_auto_but_not_upstream(release: fake_release.Release, store: Store) -> None:
    fill(store, order(release, "debian"))
    assert release.requests == []
    filled = fill(store, order(release))
    assert filled.message == "victoriametrics 1.150.0 x86_64: in the store (1.145.0+ds1-2 stands in)"
    assert release.requests == []
    assert fill(store, order(release, "upstream")).source_used == "upstream"
    assert store.find("vmagent", "1.150.0", "x86_64").version == "1.150.0"


@pytest.mark.usefixtures("debian")
def test_a_stand_in_that_the_minimum_has_left_behind_is_not_kept(release: fake_release.Release, store: Store) -> None:
    fill(store, order(release, "debian"))
    stricter = order(release)
    assert stricter.bundle.debian is not None
    newer = replace(stricter.bundle.debian, minimum_version="1.148.0")
    stricter = replace(stricter, bundle=replace(stricter.bundle, debian=newer))
    assert fill(store, stricter).source_used == "upstream"


@pytest.mark.usefixtures("debian")
def test_a_package_that_is_too_old_is_an_error(release: fake_release.Release, store: Store) -> None:
    bundle = release.bundle()
    bundle["debian"]["minimum_version"] = "1.145.1"  # type: ignore[index]
    with pytest.raises(SourceError, match=r"1:1\.145\.0\+ds1-2, and nothing older than 1\.145\.1"):
        fill(store, Order(Bundle.from_dict(bundle), "x86_64", "debian"))
    assert store.entries() == []


def test_without_a_package_upstream_must_be_reached(store: Store, release: fake_release.Release) -> None:
    release.hanging = True
    alone = order(release, timeout=0.2)
    with pytest.raises(UnreachableSource):
        fill(store, replace(alone, bundle=replace(alone.bundle, debian=None)))


def test_both_sources_must_name_the_same_artifacts(release: fake_release.Release) -> None:
    bundle = release.bundle()
    bundle["debian"]["files"]["vmauth"] = "usr/bin/vmauth"  # type: ignore[index]
    with pytest.raises(SourceError, match=r"upstream provides victoriametrics, vmagent, debian .*vmauth"):
        Bundle.from_dict(bundle)


# --- Debian as the only source


LOAD_GENERATOR = {
    "bundle": "hey",
    "version": "1.145.0",
    "debian": {"suite": "sid", "package": "hey", "minimum_version": "1.145.0", "files": {"hey": "usr/bin/vmagent"}},
}


@pytest.mark.parametrize("source", ["auto", "upstream", "debian"])
def test_what_has_no_upstream_comes_from_debian(store: Store, debian: list[str], source: str) -> None:
    asked = Order(Bundle.from_dict(LOAD_GENERATOR), "x86_64", source)
    assert fill(store, asked, dry_run=True).message == "hey 1.145.0 x86_64: would fetch hey from Debian"
    filled = fill(store, asked)
    assert filled.source_used == "debian"
    assert filled.message == "hey 1.145.0 x86_64: fetched hey from Debian sid (1.145.0+ds1-2)"
    assert store.find("hey", "1.145.0", "x86_64").source == "Debian sid: hey 1:1.145.0+ds1-2 amd64"
    again = fill(store, asked)
    assert (again.source_used, again.message) == ("store", "hey 1.145.0 x86_64: in the store")
    assert debian == ["sid/hey/x86_64"]


def test_a_bundle_without_any_source() -> None:
    with pytest.raises(SourceError, match=r"bundle x in .* has no source: give it upstream, debian or both"):
        Bundle.from_dict({"bundle": "x", "version": "1", "upstream": []})


@pytest.mark.parametrize(
    ("version", "upstream"),
    [
        ("1.145.0+ds1-2", "1.145.0"),
        ("1:1.145.0+ds-1~bpo13+1", "1.145.0"),
        ("1.11.1-3", "1.11.1"),
        ("0.28.0+dfsg-1", "0.28.0"),
        ("1.150.0~rc1-1", "1.150.0~rc1"),
        ("2.0", "2.0"),
    ],
)
def test_upstream_part_of_a_debian_version(version: str, upstream: str) -> None:
    assert sources.upstream_part(version) == upstream


def test_versions_are_compared_by_number() -> None:
    assert sources.version_at_least("1.145.0", "1.99.0")
    assert not sources.version_at_least("1.150.0~rc1", "1.150.0")


def test_a_controller_without_apt_is_told_what_it_needs(
    store: Store, release: fake_release.Release, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="apt-get install mmdebstrap"):
        fill(store, order(release, "debian"))


@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap")
def test_a_package_from_the_real_mirror_for_another_architecture(store: Store) -> None:
    """Asks Debian's mirror, some 3 s; skipped where that cannot be reached."""
    pinned = yaml.safe_load((TOP / "group_vars/all/artifacts.yml").read_text())
    (bundle,) = [each for each in pinned["artifacts_binaries"] if each["bundle"] == "node_exporter"]
    try:
        filled = fill(store, Order(Bundle.from_dict(bundle), "aarch64", "debian"))
    except UnreachableSource as error:
        pytest.skip(str(error))
    (entry,) = filled.entries
    assert entry.source.startswith("Debian sid: prometheus-node-exporter ")
    assert entry.source.endswith(" arm64")
    header = store.path(entry).read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183, "not a program for aarch64"


def test_the_pins_can_be_read_and_have_what_a_robot_needs() -> None:
    pinned = yaml.safe_load((TOP / "group_vars/all/artifacts.yml").read_text())
    names = {name for each in pinned["artifacts_binaries"] for name in Bundle.from_dict(each).names}
    assert {"victoriametrics", "vmagent", "node_exporter", "hey"} <= names


def test_the_roles_are_told_the_version_of_every_artifact() -> None:
    pinned = yaml.safe_load((TOP / "group_vars/all/artifacts.yml").read_text())
    versions = {name: each["version"] for each in pinned["artifacts_binaries"] for name in Bundle.from_dict(each).names}
    versions |= {image["name"]: image["version"] for image in pinned["artifacts_images"]}
    plain = {key: pinned[key] for key in ("artifacts_binaries", "artifacts_images")}
    assert (
        ast.literal_eval(Environment(autoescape=False).from_string(pinned["artifacts_versions"]).render(plain))
        == versions
    )
