#!/usr/bin/env -S python3 -I -S
"""A container engine with a storage of its own, in which a test can do what a power cut does.

    FAKE_ENGINE=DIR podman load --input ARCHIVE | save REF | image inspect REF | image rm --force ID… | image ls | info

As podman does: an image that is listed is not loaded again, a layer that is there is not written again, and `save` ends
with an error at the first file that is not as it was.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

STORAGE = Path(os.environ.get("FAKE_ENGINE", ""))
LAYERS, IMAGES = STORAGE / "layers", STORAGE / "images"


def member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def archive(path: Path, reference: str, layers: list[bytes]) -> str:
    """Write an image as `docker save` does; its id."""
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]}}).encode()
    identifier = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{identifier}.json", "RepoTags": [reference], "Layers": [f"{d}.tar" for d in digests]}]
    with tarfile.open(path, "w") as tar:
        for digest, layer in zip(digests, layers, strict=True):
            member(tar, f"{digest}.tar", layer)
        member(tar, f"{identifier}.json", config)
        member(tar, "manifest.json", json.dumps(manifest).encode())
    return f"sha256:{identifier}"


def images() -> dict[str, dict[str, str]]:
    """By the file's name, which is the id; `reference`, `config` and `manifest` of each."""
    return {path.name: json.loads(path.read_text()) for path in IMAGES.glob("*")}


def find(name: str) -> tuple[str, dict[str, str]]:
    for identifier, image in images().items():
        if name in (image["reference"], identifier, "sha256:" + identifier):
            return identifier, image
    sys.exit(f"Error: {name}: image not known")


def load(path: str) -> None:
    with tarfile.open(path) as tar:

        def read(name: str) -> bytes:
            stream = tar.extractfile(name)
            assert stream
            return stream.read()

        manifest = json.loads(read("manifest.json"))[0]
        identifier = manifest["Config"].removesuffix(".json")
        if identifier not in images():
            for layer in manifest["Layers"]:
                if not (LAYERS / layer).exists():
                    (LAYERS / layer).write_bytes(read(layer))
            kept = {"reference": manifest["RepoTags"][0], "config": read(manifest["Config"]).decode()}
            (IMAGES / identifier).write_text(json.dumps({**kept, "manifest": json.dumps([manifest])}))


def save(name: str) -> None:
    identifier, image = find(name)
    manifest = json.loads(image["manifest"])
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as tar:
        for layer in manifest[0]["Layers"]:
            content = (LAYERS / layer).read_bytes()
            if not content:
                sys.exit("Error: file integrity checksum failed")
            member(tar, layer, content)
        member(tar, f"{identifier}.json", image["config"].encode())
        member(tar, "manifest.json", image["manifest"].encode())


def remove(names: list[str]) -> None:
    for name in names:
        identifier, image = find(name)
        (IMAGES / identifier).unlink()
        used = {layer for other in images().values() for layer in json.loads(other["manifest"])[0]["Layers"]}
        for layer in json.loads(image["manifest"])[0]["Layers"]:
            if layer not in used:
                (LAYERS / layer).unlink()


def main() -> None:
    for folder in (LAYERS, IMAGES):
        folder.mkdir(exist_ok=True, parents=True)
    with (STORAGE / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    match sys.argv[1:]:
        case ["load", "--input", path]:
            load(path)
        case ["save", name]:
            save(name)
        case ["image", "inspect", name]:
            print(json.dumps([{"Id": find(name)[0]}]))
        case ["image", "rm", "--force", *names]:
            remove(names)
        case ["image", "ls", *_]:
            print("\n".join(f"sha256:{identifier}" for identifier in images()))
        case ["info", *_]:
            print(STORAGE)


if __name__ == "__main__":
    main()
