"""Builds the sensor service's image for the measurements: ``python bench/images.py musl|debian``.

Prints the image's base and size, and in the last line its tag. It is built as for a robot: the artifact store's code
does it, in a store of its own. ``musl`` is on the Dockerfile's base; where no registry answers, on the one that
bench/musl/base.sh makes.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

sys.path.append(str(Path(__file__).parents[1] / "collections"))
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.artifact.store import Store, StoreError
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact import base_images, images
from ansible_collections.roverwatch.fleet.plugins.plugin_utils.artifact.sources import (
    PINS,
    SourceError,
    UnreachableSource,
)

ROOT = Path(__file__).resolve().parents[1]
ARCH = platform.machine()
MUSL_BASE = "roverwatch/python-base:musl"
STORE = ROOT / ".lab" / "bench-images"
DIGESTS = yaml.safe_load((ROOT / base_images.LOCK).read_text())["artifacts_base_digests"]
FLAVOURS = ("musl", "debian")


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in FLAVOURS:
        sys.exit(f"usage: python bench/images.py {'|'.join(FLAVOURS)}")
    try:
        print(build(sys.argv[1]))
    except (images.BuildError, SourceError, StoreError) as error:
        sys.exit(str(error))


def build(flavour: str) -> str:
    """Have the image in the local engine; its tag."""
    [pins] = [
        pins for pins in yaml.safe_load((ROOT / PINS).read_text())["artifacts_images"] if pins["name"] == "sensor"
    ]
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder, "app")
        shutil.copytree(ROOT / "app", context, ignore=shutil.ignore_patterns("tests", "__pycache__"))
        if flavour == "musl":
            set_base(context / "Dockerfile")
        image = images.Image(
            name=f"sensor-{flavour}",
            version=pins["version"],
            arch=ARCH,
            context=context,
            pip=(sys.executable, "-m", "pip"),
            pip_lock=ROOT / "requirements.txt",
            fallback=base_images.python_base(pins["fallback"]["suite"], pins["fallback"]["packages"]),
            source={"musl": "upstream", "debian": "debian"}[flavour],
            digests=DIGESTS,
        )
        store = Store(STORE)
        built = images.ensure(store, image, print)
    assert built.entry and built.entry.reference
    tag = f"roverwatch-bench/sensor:{flavour}"
    if base_images.local_image(tag, ARCH) != built.entry.image_id:
        # Or the old one stays, without a name.
        subprocess.run(["docker", "image", "rm", tag], capture_output=True, check=False)
        docker("load", "--quiet", "--input", str(store.path(built.entry)))
        docker("tag", built.entry.reference, tag)
        docker("image", "rm", built.entry.reference)
    shown = base_images.inspect(tag)
    assert shown
    print(f"{built.message}; {shown.size / 1e6:.1f} MB")
    return tag


def set_base(dockerfile: Path) -> None:
    """Replace a base that cannot be had."""
    wanted = images.read_dockerfile(dockerfile).base
    try:
        base_images.here_or_pulled(base_images.Wanted(wanted, ARCH, DIGESTS.get(wanted, "")), print)
    except UnreachableSource as error:
        print(f"{error}: {MUSL_BASE} takes its place", flush=True)
        subprocess.run([ROOT / "bench" / "musl" / "base.sh"], check=True)
        dockerfile.write_text(dockerfile.read_text().replace(f"={wanted}", f"={MUSL_BASE}", 1))


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
