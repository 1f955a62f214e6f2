"""Images in a machine's container engine: whether one is there with all of its content, and loading it.

That an engine lists an image says nothing of its files. After a power cut in the seconds after `podman load` each of
them may be empty, or some; the image keeps its name and its id, and is not loaded anew by a second load.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import IO, Dict, List, Optional, Sequence

from ..system import disk

# As long as an engine may take to read or write an image, on a slow card.
TIMEOUT_SECONDS = 600

# podman writes it when it is first called, and does not wait for the disk; emptied by a power cut, it is an error for
# every later call. Without it podman decides again.
NETWORK_BACKEND = "defaultNetworkBackend"
PODMAN_STORAGE = Path("/var/lib/containers/storage")


class EngineError(Exception):
    """The engine does not do what it was asked; the text has what it said."""


class Damaged(Exception):
    """An image is there, and is not whole; the text says what was seen."""


def is_there(engine: Optional[str]) -> bool:
    return engine is not None and shutil.which(engine) is not None


def image_id(engine: Optional[str], reference: str) -> Optional[str]:
    """The identifier of an image in the engine, or None where it cannot be opened, or the engine is not there."""
    if engine is None or not is_there(engine):
        return None
    done = _run([engine, "image", "inspect", reference])
    if done.returncode != 0:
        return None
    found: str = json.loads(done.stdout)[0]["Id"]
    return "sha256:" + found.removeprefix("sha256:")


def check(engine: str, reference: str) -> None:
    """Read all that is in an image, and compare it with the digests that its configuration has of its layers.

    `save` writes the layers as they were when the image was built (the image specification's `diff_ids` are of these),
    with every file, its owner and mode. Raises Damaged; and EngineError where there was no room to do it.
    """
    command = [engine, "save", reference]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        digests: Dict[str, str] = {}
        documents: Dict[str, bytes] = {}
        problem = ""
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is not None:
                        digests[member.name] = _digest(content, documents, member.name)
        except tarfile.TarError as error:
            problem = str(error)
        process.stdout.close()
        said = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        last = said.splitlines()[-1] if said else "exited with {}".format(process.returncode)
        if "no space left" in said:
            raise EngineError("{}: {}. Make room where it keeps images and in /var/tmp".format(" ".join(command), last))
        raise Damaged(last)
    if problem:
        raise Damaged(problem)
    manifest = json.loads(documents["manifest.json"])[0]
    wanted = json.loads(documents[manifest["Config"]])["rootfs"]["diff_ids"]
    found = ["sha256:" + digests[layer] for layer in manifest["Layers"]]
    if found != wanted:
        raise Damaged("its layers are {}, and should be {}".format(", ".join(found), ", ".join(wanted)))


def _digest(content: IO[bytes], documents: Dict[str, bytes], name: str) -> str:
    """A member's sha256. What may be JSON, by its first byte, is kept."""
    digest = hashlib.sha256()
    block = content.read(1 << 20)
    if block[:1] in (b"{", b"["):
        documents[name] = block
    while block:
        digest.update(block)
        block = content.read(1 << 20)
    return digest.hexdigest()


def load(engine: str, archive: Path, reference: str, wanted: str) -> None:
    """Load an image. Its files are not on the disk before its `storage` is synced. Raises EngineError.

    `wanted` is the id that it has. One of this id that is there already goes first, with the containers that stand on
    it: the engine would keep its files, whatever is in them.
    """
    if engine == "podman":
        _mend_network_backend()
    if image_id(engine, reference) in (None, wanted):
        forget(engine, wanted)
    output([engine, "load", "--input", str(archive)])


def forget(engine: str, image: str) -> None:
    """Remove an image, if it is there, with the containers that stand on it."""
    _run([engine, "image", "rm", "--force", image])


def ids(engine: str, repository: str) -> List[str]:
    """The ids of all images of a repository."""
    listed = output([engine, "image", "ls", "--quiet", "--no-trunc", "--filter", "reference=" + repository])
    return sorted(set(listed.split()))


def remove(engine: str, images: Sequence[str]) -> None:
    """Remove images by their ids, with the containers that stand on them."""
    output([engine, "image", "rm", "--force", *images])


def storage(engine: str) -> List[Path]:
    """Where the engine keeps images."""
    if engine == "podman":
        return [Path(output([engine, "info", "--format", "{{.Store.GraphRoot}}"]).strip())]
    # containerd has a store of its own, which docker uses since its version 29.
    return [Path(output([engine, "info", "--format", "{{.DockerRootDir}}"]).strip()), Path("/var/lib/containerd")]


def _mend_network_backend() -> None:
    path = PODMAN_STORAGE / NETWORK_BACKEND
    if path.exists() and not path.read_text().strip():
        disk.remove(path)


def output(command: Sequence[str]) -> str:
    """What a command printed. Raises EngineError with what it said if it fails."""
    done = _run(command)
    if done.returncode != 0:
        raise EngineError("{}: {}".format(" ".join(command), done.stderr.strip()))
    return done.stdout


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            "{}: no end after {} s; ps and dmesg there say what it waits for".format(" ".join(command), TIMEOUT_SECONDS)
        ) from error
