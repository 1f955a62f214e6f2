"""Downloads from a release page that redirects to an object store, over TLS: logins, proxies, refusals, cuts."""

from __future__ import annotations

import base64
import datetime
import email.utils
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fake_release
import pytest
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import retry
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import download
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.download import (
    Hosts,
    SourceError,
    UnreachableHost,
    UnreachableSource,
)
from stopwatch import Stopwatch
from unit import connect_proxy

CHECKSUMS = "vmutils-linux-amd64-v1.150.0_checksums.txt"
ARCHIVE = "vmutils-linux-amd64-v1.150.0.tar.gz"
PASSWORD = "p:s/w %d@"
QUOTED = "p%3As%2Fw%20%25d%40"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def proxy(release: fake_release.Release, monkeypatch: pytest.MonkeyPatch) -> Iterator[connect_proxy.Proxy]:
    """The environment's proxy, which has the release page at its name in the world."""
    with release.proxy() as proxy:
        release.address = f"https://{fake_release.PAGE}"
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        yield proxy


def text(release: fake_release.Release, login: str = "") -> str:
    url = release.url(CHECKSUMS)
    return download.first_contact(download.place(url.replace("://", f"://{login}@") if login else url), 2.0)


def refusal(release: fake_release.Release, login: str = "") -> str:
    """What an error says that is no reason to ask another source."""
    with pytest.raises(SourceError) as failure:
        text(release, login)
    assert not isinstance(failure.value, UnreachableSource)
    return str(failure.value)


def fetched(release: fake_release.Release, folder: Path) -> bytes:
    target = folder / "fetched"
    target.unlink(missing_ok=True)
    download.download(download.place(release.url(ARCHIVE)), target, lambda _: None)
    return target.read_bytes()


# --- logins


def netrc(folder: Path, content: str) -> None:
    (folder / "netrc").write_text(content)


@pytest.mark.parametrize("where", ["url", "netrc"])
def test_a_login_goes_to_its_own_host_and_not_to_where_that_redirects(
    release: fake_release.Release, tmp_path: Path, where: str
) -> None:
    release.login = f"fleet:{PASSWORD}"
    if where == "netrc":
        netrc(tmp_path, f'machine 127.0.0.1 login fleet password "{PASSWORD}"\n')
    assert "vmagent-prod" in text(release, f"fleet:{QUOTED}" if where == "url" else "")
    assert len(release.requests) == len(release.objects) == 1
    _, headers = release.objects[0]
    assert "Authorization" not in headers


def test_a_login_goes_on_where_a_mirror_redirects_within_itself(release: fake_release.Release) -> None:
    release.login = "fleet:secret"
    moved = release.path(CHECKSUMS).replace("/releases/", "/latest/")
    release.status[moved] = 301
    release.headers["Location"] = release.path(CHECKSUMS)
    origin = download.place(release.address.replace("://", "://fleet:secret@") + moved)
    assert "vmagent-prod" in download.first_contact(origin, 2.0)
    assert release.requests == [moved, release.path(CHECKSUMS)]


def test_a_login_in_the_url_counts_before_that_of_netrc(release: fake_release.Release, tmp_path: Path) -> None:
    release.login = "fleet:right"
    netrc(tmp_path, "machine 127.0.0.1 login fleet password wrong\n")
    assert "vmagent-prod" in text(release, "fleet:right")


@pytest.mark.parametrize("content", ["default login x password y\n", "machine other.example login x password y\n"])
def test_no_host_gets_the_login_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    netrc(tmp_path, content)
    assert download.place("https://mirror.example/x").authorization == ""


def test_netrc_is_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine mirror.example login x password y\n")
    found = download.place("https://mirror.example:8443/x").authorization
    assert base64.b64decode(found.removeprefix("Basic ")) == b"x:y"


def test_a_netrc_that_cannot_be_read_is_an_error_that_quotes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    netrc(tmp_path, "machine mirror.example\nlogin x password two words\n")
    with pytest.raises(SourceError, match=r"netrc cannot be read, from line \d+ on; correct it") as failure:
        download.place("https://mirror.example/x")
    assert "words" not in str(failure.value)


def test_a_url_keeps_no_login_and_shows_none() -> None:
    found = download.place(f"https://fleet:{QUOTED}@mirror.example:8443/a/b%2B.tar.gz")
    assert (found.url, found.host) == ("https://mirror.example:8443/a/b%2B.tar.gz", "mirror.example:8443")
    assert found.filename == "b+.tar.gz"
    assert base64.b64decode(found.authorization.removeprefix("Basic ")).decode() == f"fleet:{PASSWORD}"
    assert found.authorization not in repr(found)


@pytest.mark.parametrize("password", ["47hun/ter", "47/hun", "47#hun", "47?hun", "[hun"])
def test_a_password_that_breaks_its_url_is_not_shown(password: str) -> None:
    with pytest.raises(SourceError, match="percent-encode") as failure:
        download.place(f"https://fleet:{password}@mirror.example/x")
    assert "hun" not in str(failure.value)
    assert "47" not in str(failure.value)
    assert failure.value.__suppress_context__


def test_a_token_that_breaks_its_url_is_not_shown() -> None:
    with pytest.raises(SourceError, match="percent-encode") as failure:
        download.place("https://tok/en@mirror.example/x")
    assert "tok" not in str(failure.value)


# --- refusals


def test_a_page_that_wants_a_login_says_where_to_put_it(release: fake_release.Release) -> None:
    release.login = "fleet:secret"
    said = refusal(release)
    assert said.startswith(
        f"{release.url(CHECKSUMS)} wants a login (HTTP 401): put it into ~/.netrc (machine 127.0.0.1 "
    )
    wrong = refusal(release, "fleet:wr0ng")
    assert "does not accept the login (HTTP 401); correct it in the URL or in ~/.netrc" in wrong
    assert "wr0ng" not in wrong


@pytest.mark.parametrize(
    ("status", "headers", "login", "said"),
    [
        (404, {}, "", r"does not exist \(HTTP 404\); correct the version or the URL in group_vars/all/artifacts.yml"),
        (410, {}, "", r"does not exist \(HTTP 410\)"),
        (403, {}, "", r"is refused \(HTTP 403\)\. If it is for a login, put it into ~/\.netrc"),
        (403, {}, "x:y", r"is not for this login \(HTTP 403\)"),
        (
            429,
            {"Retry-After": "7200"},
            "",
            r"too many requests .*\(HTTP 429\)\. Run this again after @7200 UTC, or name",
        ),
        (429, {"Retry-After": "date:7200"}, "", r"too many requests .* after @7200 UTC"),
        (429, {"Retry-After": "soon"}, "", r"too many requests .*Run this again later, or name a mirror"),
        (429, {}, "", r"Run this again later"),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "7200"}, "", r"\(HTTP 403\)\..* after @7200 UTC"),
        (403, {"X-RateLimit-Remaining": "1"}, "", r"is refused \(HTTP 403\)"),
        (407, {}, "", r"the proxy wants a login"),
        (400, {}, "", r"HTTP 400; correct the URL"),
    ],
)
def test_a_refusal_is_an_error_that_says_what_to_do(
    release: fake_release.Release, status: int, headers: dict[str, str], login: str, said: str
) -> None:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=7200)
    release.status[release.path(CHECKSUMS)] = status
    release.headers = {
        name: value.replace("date:7200", email.utils.format_datetime(moment, usegmt=True))
        if name == "Retry-After"
        else value.replace("7200", str(int(moment.timestamp())))
        for name, value in headers.items()
    }
    found = refusal(release, login)
    for late in range(2):  # a minute may have begun meanwhile
        said_then = said.replace("@7200", f"{moment + datetime.timedelta(minutes=late):%Y-%m-%d %H:%M}")
        if re.search(said_then, found):
            return
    pytest.fail(found)


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_gateway_in_trouble_is_unreachable(release: fake_release.Release, status: int) -> None:
    release.status[release.path(CHECKSUMS)] = status
    with pytest.raises(UnreachableSource, match=f"{CHECKSUMS}: HTTP {status}") as failure:
        text(release)
    assert not isinstance(failure.value, UnreachableHost)


def test_an_unknown_authority_is_an_error_with_its_remedy(
    release: fake_release.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    said = refusal(release)
    assert "its certificate is not accepted (" in said
    assert "update-ca-certificates" in said
    assert "SSL_CERT_FILE=" in said


# --- what cannot be reached


def test_a_host_that_cannot_be_reached_is_asked_once(release: fake_release.Release) -> None:
    release.hanging = True
    hosts = Hosts()
    watch = Stopwatch()
    for kind in (CHECKSUMS, ARCHIVE):
        with pytest.raises(UnreachableHost, match=r"127\.0\.0\.1:\d+: The read operation timed out"):
            hosts.text(download.place(release.url(kind)), 0.5)
    assert release.requests == [release.path(CHECKSUMS)]
    assert watch.seconds < 1.0


def test_a_host_in_trouble_may_have_the_next_file(release: fake_release.Release) -> None:
    release.status[release.path(ARCHIVE)] = 502
    hosts = Hosts()
    with pytest.raises(UnreachableSource):
        hosts.text(download.place(release.url(ARCHIVE)), 2.0)
    assert "vmagent-prod" in hosts.text(download.place(release.url(CHECKSUMS)), 2.0)


def test_the_host_that_a_page_redirects_to_is_named(release: fake_release.Release) -> None:
    release.objects_address = "https://objects.invalid"
    with pytest.raises(
        UnreachableHost, match=r"^127\.0\.0\.1:\d+ \(which redirects to objects\.invalid\): "
    ) as failure:
        text(release)
    assert fake_release.SIGNATURE not in str(failure.value)


# --- proxies


def test_a_proxy_leads_to_the_page_and_to_where_that_redirects(
    release: fake_release.Release, proxy: connect_proxy.Proxy
) -> None:
    assert "vmagent-prod" in text(release)
    assert proxy.hosts == [fake_release.PAGE, fake_release.OBJECTS]
    assert not any("Proxy-Authorization" in headers for _, headers in release.objects)


def test_a_proxy_that_wants_a_login_gets_that_of_its_url(
    release: fake_release.Release, proxy: connect_proxy.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.login = f"fleet:{PASSWORD}"
    assert "the proxy wants a login, or another one (HTTP 407): HTTPS_PROXY=http://user:password@" in refusal(release)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", f"://fleet:{QUOTED}@"))
    assert "vmagent-prod" in text(release)
    assert proxy.hosts == [fake_release.PAGE, fake_release.OBJECTS]


def test_the_proxys_login_stays_at_the_proxy(
    release: fake_release.Release, proxy: connect_proxy.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object store is reached past the proxy here."""
    proxy.login = "fleet:secret"
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://fleet:secret@"))
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setattr(fake_release, "OBJECTS", release.objects_address.removeprefix("https://"))
    assert "vmagent-prod" in text(release)
    assert proxy.hosts == [fake_release.PAGE]
    _, headers = release.objects[0]
    assert "Proxy-Authorization" not in headers


def test_a_proxy_that_does_not_let_us_through_makes_the_page_unreachable(
    release: fake_release.Release, proxy: connect_proxy.Proxy
) -> None:
    release.address = "https://elsewhere.example"
    with pytest.raises(
        UnreachableHost, match=r"elsewhere\.example through the proxy 127\.0\.0\.1:\d+: Tunnel .* failed: 403"
    ):
        text(release)
    assert proxy.refused_hosts == ["elsewhere.example"]


def test_a_proxy_that_cannot_be_reached_is_named(
    release: fake_release.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://fleet:hunter2@127.0.0.1:1")
    with pytest.raises(UnreachableHost, match=r"through the proxy 127\.0\.0\.1:1: Connection refused$") as failure:
        text(release)
    assert "hunter2" not in str(failure.value)


def test_a_proxy_that_is_no_url_is_not_shown(release: fake_release.Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http:/fleet:hunter2@127.0.0.1:1")
    said = refusal(release)
    assert "the proxy's in HTTPS_PROXY" in said
    assert "hun" not in said


# --- what breaks off


@pytest.mark.parametrize("versioned", [True, False])
def test_an_archive_that_breaks_off_is_resumed(release: fake_release.Release, tmp_path: Path, versioned: bool) -> None:
    release.versioned = versioned
    release.cuts[release.path(ARCHIVE)] = 2
    assert fetched(release, tmp_path) == release.files[release.path(ARCHIVE)]
    headers = [asked for _, asked in release.objects]
    begun = [int(asked.get("Range", "bytes=0-")[6:-1]) for asked in headers]
    size = len(release.files[release.path(ARCHIVE)])
    assert begun == [0, size // 2, (size // 2 + size) // 2]
    assert all(("If-Range" in asked) == versioned for asked in headers[1:])


def test_a_server_that_knows_no_ranges_is_asked_for_all_of_it_again(
    release: fake_release.Release, tmp_path: Path
) -> None:
    release.resumable = False
    release.cuts[release.path(ARCHIVE)] = 1
    assert fetched(release, tmp_path) == release.files[release.path(ARCHIVE)]
    assert len(release.objects) == 2


def test_an_archive_that_was_replaced_meanwhile_is_not_appended_to_the_old_one(
    release: fake_release.Release, tmp_path: Path
) -> None:
    release.cuts[release.path(ARCHIVE)] = 1
    release.until_cut[release.path(ARCHIVE)] = b"the archive as it was before" * 10
    assert fetched(release, tmp_path) == release.files[release.path(ARCHIVE)]


def test_a_page_in_trouble_after_the_cut_is_asked_again(
    release: fake_release.Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it says at last counts, if it goes on."""
    release.cuts[release.path(ARCHIVE)] = 1
    waits = iter([503, 503, None])

    def pause(_: float) -> None:
        status = next(waits)
        if status is None:
            del release.status[release.path(ARCHIVE)]
        else:
            release.status[release.path(ARCHIVE)] = status

    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=pause))
    assert fetched(release, tmp_path) == release.files[release.path(ARCHIVE)]
    assert len(release.requests) == 4


def test_what_breaks_off_again_and_again_is_unreachable(release: fake_release.Release, tmp_path: Path) -> None:
    release.cuts[release.path(ARCHIVE)] = 99
    with pytest.raises(UnreachableSource, match=r"\.tar\.gz: broke off again and again, \d+ bytes before its end"):
        fetched(release, tmp_path)
    assert len(release.objects) == retry.ATTEMPTS


def test_a_server_that_falls_silent_within_an_archive_is_asked_to_go_on(
    release: fake_release.Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    release.seconds[release.path(ARCHIVE)] = 12.0  # 0.6 s for each piece

    def report(_: str) -> None:
        release.seconds.clear()

    target = tmp_path / "fetched"
    download.download(download.place(release.url(ARCHIVE)), target, report)
    assert target.read_bytes() == release.files[release.path(ARCHIVE)]
    assert len(release.objects) == 2


def test_checksums_that_break_off_are_asked_for_again(release: fake_release.Release) -> None:
    release.cuts[release.path(CHECKSUMS)] = 1
    assert "vmagent-prod" in text(release)
    assert len(release.objects) == 2


def test_a_download_says_how_far_it_is(release: fake_release.Release, tmp_path: Path) -> None:
    path = release.path(ARCHIVE)
    release.files[path] = bytes(3_000_000)
    release.cuts[path] = 1
    said: list[str] = []
    download.download(download.place(release.url(ARCHIVE)), tmp_path / "fetched", said.append)
    assert said[-1] == f"3 of 3 MB ({ARCHIVE})"
    assert f"2 of 3 MB ({ARCHIVE})" in said
