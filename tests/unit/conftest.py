from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_release
import networks
import pytest
from compute_api.resources import Api
from compute_api.server import served
from networks import Space


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/health"


@pytest.fixture(scope="session")
def nft() -> Iterator[Path]:
    """The directory of this machine's nft, which is on PATH, and networks to use it in."""
    found = shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        pytest.skip("nft is not here: make unit installs it for root, else: apt-get install nftables")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        # Where Debian has ip as well, and a user's shell does not look.
        patch.setenv("PATH", f"{os.environ['PATH']}:{Path(found).parent}")
        try:
            stack.enter_context(networks.root())
        except networks.NoNetworks as error:
            pytest.skip(str(error))
        yield Path(found).parent


@pytest.fixture
def space(nft: Path) -> Iterator[Space]:
    with contextlib.closing(Space()) as found:
        yield found


# Says what the program does, in the shell's language.
Script = Callable[[str], None]


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A program named docker, of a test's making, before all others."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    def write(text: str) -> None:
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)

    return write


@pytest.fixture
def compute_api(tmp_path: Path) -> Iterator[Api]:
    with served(tmp_path) as api:
        yield api


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_release.Release]:
    """Upstream's release pages, for a controller without proxy or login that trusts their authority."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with fake_release.served(tmp_path) as release:
        monkeypatch.setenv("SSL_CERT_FILE", str(release.authority))
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        yield release
