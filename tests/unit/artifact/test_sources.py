from __future__ import annotations

import ast
import io
import re
import shutil
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import fake_release
import pytest
import yaml
from ansible_collections.roverwatch.fleet.plugins.filter.versions import versions as versions_filter
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import Entry, Store
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import retry
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import download, sources
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.sources import (
    Bundle,
    ChecksumMismatch,
    Order,
    SourceError,
    UnreachableSource,
    fill,
)
from jinja2 import Environment
from stopwatch import Stopwatch

TOP = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)


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
    assert {path.rpartition("/")[2].split("-")[0] for path in release.requests} == {"vmutils"}


@pytest.mark.usefixtures("no_debian")
def test_a_tampered_archive_is_an_error_and_stores_nothing(release: fake_release.Release, store: Store) -> None:
    path = release.path("vmutils-linux-amd64-v1.150.0.tar.gz")
    release.files[path] = fake_release.archive({"vmagent-prod": b"malware"})
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
    watch = Stopwatch()
    with pytest.raises(UnreachableSource, match="timed out"):
        fill(store, order(release, "upstream", timeout=0.3))
    assert watch.seconds < 2


def test_a_silent_name_server_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> None:
        time.sleep(1.2)
        raise OSError("no answer")

    monkeypatch.setattr("socket.getaddrinfo", silent)
    watch = Stopwatch()
    with pytest.raises(UnreachableSource, match=r"no answer within 0\.6 s"):
        download.first_contact(download.place("http://releases.invalid/x"), 0.3)
    assert watch.seconds < 1


def test_an_unknown_host_is_given_up_at_once() -> None:
    watch = Stopwatch()
    with pytest.raises(UnreachableSource, match=r"releases\.invalid"):
        download.first_contact(download.place("http://releases.invalid/x"), 5)
    assert watch.seconds < 5


def test_only_http_is_spoken() -> None:
    with pytest.raises(SourceError, match="is no http URL"):
        download.place("file:///etc/passwd")


def test_a_server_in_trouble_is_unreachable(release: fake_release.Release, store: Store) -> None:
    release.status[release.path("victoria-metrics-linux-amd64-v1.150.0_checksums.txt")] = 503
    with pytest.raises(UnreachableSource, match="HTTP 503"):
        fill(store, order(release, "upstream"))


@pytest.mark.usefixtures("no_debian", "at_once")
def test_an_archive_that_breaks_off_is_resumed_and_verified(release: fake_release.Release, store: Store) -> None:
    path = release.path("vmutils-linux-amd64-v1.150.0.tar.gz")
    release.cuts[path] = 1
    assert fill(store, order(release)).source_used == "upstream"
    assert [asked for asked, _ in release.objects].count(path) == 2
    release.cuts[path] = 1
    release.versioned = False
    release.until_cut[path] = bytes(len(release.files[path]))
    shutil.rmtree(store.root)
    with pytest.raises(ChecksumMismatch):
        fill(store, order(release))
    assert store.entries() == []
    assert not list((store.root / ".staging").iterdir())


@pytest.mark.usefixtures("at_once")
def test_an_archive_that_breaks_off_again_and_again_is_unreachable(release: fake_release.Release, store: Store) -> None:
    release.cuts[release.path("vmutils-linux-amd64-v1.150.0.tar.gz")] = 99
    with pytest.raises(UnreachableSource, match="broke off again and again"):
        fill(store, order(release, "upstream"))
    assert store.entries() == []
    assert not list((store.root / ".staging").iterdir())


@pytest.mark.usefixtures("no_debian")
def test_a_login_is_in_no_entry(release: fake_release.Release, store: Store) -> None:
    release.login = "fleet:{hunter2}"
    filled = fill(store, Order(Bundle.from_dict(release.bundle("fleet:{hunter2}")), "x86_64", "upstream"))
    assert filled.source_used == "upstream"
    assert filled.entries[0].source.startswith(f"{release.address}{fake_release.DOWNLOADS}/v1.150.0/victoria-metrics-")
    assert "hunter2" not in store.manifest.read_text() + str(filled)


@pytest.mark.usefixtures("no_debian")
@pytest.mark.parametrize("kind", [".tar.gz", "_checksums.txt"])
def test_a_login_is_in_no_error(release: fake_release.Release, store: Store, kind: str) -> None:
    release.files[release.path(f"vmutils-linux-amd64-v1.150.0{kind}")] = b"something else"
    with pytest.raises(ChecksumMismatch) as failure:
        fill(store, Order(Bundle.from_dict(release.bundle("fleet:hunter2")), "x86_64", "auto"))
    assert "hunter2" not in str(failure.value)
    assert release.url("vmutils-linux-amd64-v1.150.0_checksums.txt") in str(failure.value)


@pytest.mark.usefixtures("no_debian")
@pytest.mark.parametrize("status", [401, 403, 404, 410, 429])
def test_a_refusal_is_no_reason_to_ask_debian(release: fake_release.Release, store: Store, status: int) -> None:
    release.status[release.path("victoria-metrics-linux-amd64-v1.150.0_checksums.txt")] = status
    with pytest.raises(SourceError, match=f"HTTP {status}") as failure:
        fill(store, order(release))
    assert not isinstance(failure.value, UnreachableSource)


@pytest.mark.usefixtures("no_debian")
def test_an_unknown_authority_is_no_reason_to_ask_debian(
    release: fake_release.Release, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", str(store.root))
    with pytest.raises(SourceError, match="certificate is not accepted") as failure:
        fill(store, order(release))
    assert not isinstance(failure.value, UnreachableSource)


@pytest.mark.usefixtures("no_debian")
def test_nothing_but_version_and_architecture_is_filled_in(release: fake_release.Release, store: Store) -> None:
    bundle = release.bundle()
    bundle["upstream"][0]["url"] += "?{arch}"  # type: ignore[index]
    with pytest.raises(SourceError, match=r"\?\{arch\}: nothing but \{version\} and \{goarch\} can be filled in"):
        fill(store, Order(Bundle.from_dict(bundle), "x86_64", "auto"))


SHA256 = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "line",
    [
        f"{SHA256}  a.tar.gz",
        f"{SHA256.upper()}  a.tar.gz",
        f"{SHA256} *a.tar.gz",
        f"{SHA256}  ./a.tar.gz\r",
        f"SHA256 (a.tar.gz) = {SHA256}",
    ],
)
def test_checksums_as_sha256sum_writes_them(line: str) -> None:
    text = f"{'f' * 64}  b.tar.gz\n{line}\n"
    assert sources.published_checksum(text, "a.tar.gz", "x") == SHA256


def test_a_name_that_sha256sum_escapes(tmp_path: Path) -> None:
    name = "a\\b.tar.gz"
    (tmp_path / name).touch()
    for option in ("--text", "--binary", "--tag"):
        said = subprocess.run(["sha256sum", option, name], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert said.stdout.startswith("\\")
        assert sources.published_checksum(said.stdout, name, "x").startswith("e3b0c442")


@pytest.mark.parametrize("line", [f"{SHA256[1:]}  a.tar.gz", f"{SHA256}  b/a.tar.gz", f"{SHA256} a.tar.gz"])
def test_what_is_no_checksum_of_the_archive(line: str) -> None:
    with pytest.raises(ChecksumMismatch, match=r"x lists no sha256 of a\.tar\.gz"):
        sources.published_checksum(line, "a.tar.gz", "x")


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
    assert filled.message.startswith("victoriametrics 1.150.0 x86_64: upstream is not reachable (127.0.0.1:")
    assert filled.message.endswith("Debian sid's 1.145.0+ds1-2 stands in (victoriametrics, vmagent)")
    assert debian == ["sid/victoria-metrics/x86_64"]
    agent = store.find("vmagent", "1.150.0", "x86_64")
    assert (agent.version, agent.requested) == ("1.145.0+ds1-2", "1.150.0")
    assert agent.file == "vmagent/1.145.0+ds1-2/x86_64/vmagent"
    assert agent.source == "Debian sid: victoria-metrics 1:1.145.0+ds1-2 amd64"
    assert store.path(agent).read_bytes() == fake_release.program("vmagent")


@pytest.mark.usefixtures("debian")
def test_a_stand_in_goes_as_soon_as_upstream_can_be_reached(release: fake_release.Release, store: Store) -> None:
    first = fill(store, order(release, "debian"))
    assert release.requests == []
    assert first.not_as_pinned == (
        "victoriametrics 1.150.0 x86_64 (1.145.0+ds1-2 stands in, because its source is debian)"
    )
    filled = fill(store, order(release))
    assert filled.source_used == "upstream"
    assert filled.message == "victoriametrics 1.150.0 x86_64: fetched victoriametrics, vmagent from upstream"
    assert filled.not_as_pinned == ""
    assert store.find("vmagent", "1.150.0", "x86_64").version == "1.150.0"
    release.requests.clear()
    assert fill(store, order(release)).source_used == "store"
    assert release.requests == []


def test_a_stand_in_stays_where_upstream_cannot_be_reached(
    release: fake_release.Release, store: Store, debian: list[str]
) -> None:
    fill(store, order(release, "debian"))
    before = store.manifest.read_text()
    release.hanging = True
    watch = Stopwatch()
    filled = fill(store, order(release, timeout=0.3))
    assert watch.seconds < 1.0
    assert len(release.requests) == len(debian) == 1
    assert filled.source_used == "store"
    assert filled.message == "victoriametrics 1.150.0 x86_64: in the store (1.145.0+ds1-2 stands in)"
    assert re.fullmatch(
        r"victoriametrics 1\.150\.0 x86_64 \(1\.145\.0\+ds1-2 stands in, because upstream is not reachable "
        r"\(127\.0\.0\.1:\d+: The read operation timed out\)\)",
        filled.not_as_pinned,
    )
    assert store.manifest.read_text() == before
    assert {entry.name for entry in filled.entries} == {"victoriametrics", "vmagent"}


@pytest.mark.usefixtures("debian", "at_once")
def test_a_stand_in_stays_where_upstream_breaks_off(release: fake_release.Release, store: Store) -> None:
    fill(store, order(release, "debian"))
    release.cuts[release.path("vmutils-linux-amd64-v1.150.0.tar.gz")] = 99
    filled = fill(store, order(release))
    assert filled.source_used == "store"
    assert "broke off again and again" in filled.not_as_pinned
    assert {entry.version for entry in filled.entries} == {"1.145.0+ds1-2"}


@pytest.mark.usefixtures("debian")
def test_a_stand_in_is_no_reason_to_overlook_a_refusal(release: fake_release.Release, store: Store) -> None:
    fill(store, order(release, "debian"))
    release.status[release.path("victoria-metrics-linux-amd64-v1.150.0_checksums.txt")] = 404
    with pytest.raises(SourceError, match="does not exist"):
        fill(store, order(release))


@pytest.mark.usefixtures("debian")
def test_a_dry_run_leaves_a_stand_in_and_asks_nobody(release: fake_release.Release, store: Store) -> None:
    fill(store, order(release, "debian"))
    filled = fill(store, order(release), dry_run=True)
    assert (filled.source_used, release.requests) == ("store", [])
    assert filled.not_as_pinned.endswith("(1.145.0+ds1-2 stands in, because a dry run does not ask upstream)")


@pytest.mark.usefixtures("debian")
def test_upstream_alone_does_not_take_a_stand_in(release: fake_release.Release, store: Store) -> None:
    fill(store, order(release, "debian"))
    release.hanging = True
    with pytest.raises(UnreachableSource):
        fill(store, order(release, "upstream", timeout=0.3))


def test_the_orders_of_a_run_ask_a_host_that_cannot_be_reached_once(
    release: fake_release.Release, store: Store, debian: list[str]
) -> None:
    release.hanging = True
    one = order(release, timeout=0.3)
    fill(store, one)
    other = replace(one, bundle=replace(one.bundle, name="another", version="1.151.0"))
    assert fill(store, other).source_used == "debian"
    assert len(release.requests) == 1
    assert len(debian) == 2


# --- a bundle's own source


def test_a_bundle_has_a_source_of_its_own(release: fake_release.Release, store: Store, debian: list[str]) -> None:
    own = {**release.bundle(), "source": "debian"}
    assert fill(store, Order(Bundle.from_dict(own), "x86_64", "upstream")).source_used == "debian"
    assert release.requests == []
    own["source"] = "upstream"
    assert fill(store, Order(Bundle.from_dict(own), "x86_64", "debian")).source_used == "upstream"
    assert len(debian) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "both"}, "source is 'both'; it must be one of auto, upstream, debian"),
        ({"source": "upstream", "upstream": []}, "source is upstream, and upstream is what it does not have"),
        ({"source": "debian", "debian": None}, "source is debian, and debian is what it does not have"),
    ],
)
def test_a_source_that_a_bundle_cannot_have(release: fake_release.Release, change: dict, said: str) -> None:
    with pytest.raises(SourceError, match=f"^bundle victoriametrics in group_vars/all/artifacts.yml: {said}$"):
        Bundle.from_dict({**release.bundle(), **change})


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
    jinja = Environment(autoescape=False)
    jinja.filters["roverwatch.fleet.versions"] = versions_filter
    assert ast.literal_eval(jinja.from_string(pinned["artifacts_versions"]).render(plain)) == versions


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("cannot find newuidmap", "apt-get install uidmap"),
        ("failed to parse /etc/subuid: no entry", "usermod --add-subuids"),
        ("The repository 'http://debian.invalid sid InRelease' is not signed.", "install debian-archive-keyring"),
        ("Release file for http://debian.invalid/dists/sid/InRelease is expired", "the controller's clock is wrong"),
    ],
)
def test_what_mmdebstrap_lacks_is_said_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, remedy: str
) -> None:
    program = tmp_path / "mmdebstrap"
    program.write_text(f'#!/bin/sh\necho "E: {said}" >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SourceError, match=remedy) as caught:
        sources.run_mmdebstrap(["mmdebstrap"], "a base of Debian sid")
    assert str(caught.value).startswith(f"cannot get a base of Debian sid: {said}")
