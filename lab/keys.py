"""Puts a lab's keys into its machines, before these start: whom sshd lets in, and what it says who it is.

Robot 2 is a hardened machine, too: what root makes there is closed to others, unless its maker sees to it.

    python lab/keys.py DIRECTORY CONTAINER...

One archive and the engine's client, since a module of Ansible for each key and machine takes ten times as long.
"""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

# In the directory; on the machine; whose it is there.
KEYS = (
    ("id_ed25519.pub", "home/rover/.ssh/authorized_keys", 1000),
    ("ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key", 0),
)
HARDENED = "-robot-2"
UMASK = ("etc/sudoers.d/umask", b"Defaults umask=0077\n")


def archive(directory: Path, container: str) -> bytes:
    files = [(path, (directory / name).read_bytes(), owner) for name, path, owner in KEYS]
    if container.endswith(HARDENED):
        files.append((*UMASK, 0))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, content, owner in files:
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.uid, entry.gid = len(content), 0o600, owner, owner
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def main(directory: str, *containers: str) -> None:
    for container in containers:
        content = archive(Path(directory), container)
        subprocess.run(["docker", "cp", "-", f"{container}:/"], input=content, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
