"""The text of a service's unit: a binary in a sandbox, or a container under its supervisor.

The units are described in systemd.service(5), systemd.exec(5) and systemd.resource-control(5).
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from ..system.units import CDI, DEVICES, PLACEHOLDER, REVISION, SLICE

SBIN = "/usr/local/sbin"
# Where containers' ids are written down. A directory of its own: the sensor service finds the names of all in it.
RUN = "/run/roverwatch"

_HEAD = """\
# Ansible managed
[Unit]
Description=Roverwatch: {description}
{dependencies}
# A robot that nobody watches must come back by itself, however long it takes.
StartLimitIntervalSec=0

[Service]
"""

_INSTALL = """
[Install]
WantedBy=multi-user.target
"""

_CAP = """\
Slice={slice}
MemoryAccounting=yes
MemoryMax={memory_max}
MemorySwapMax=0
"""

# What every binary runs in; that of vmbackup and vmrestore, too.
SANDBOX = """\
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateDevices=yes
PrivateTmp=yes
PrivateUsers=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
SystemCallArchitectures=native
# VictoriaMetrics asks with mincore whether a page is in memory, and ends where it may not.
SystemCallFilter=@system-service mincore
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

PROTECT_CLOCK = "ProtectClock=yes\n"
_READS_CLOCK = """\
ProtectClock=no
# To read how the clock is kept; without a capability it cannot be set.
SystemCallFilter=adjtimex clock_adjtime
"""


# Who measures file systems reads in /proc/1/mountinfo which there are outside of the sandbox, and asks for the size of
# each at its path: so nothing may be mounted over one. All of them are read-only all the same.
_SEES_MOUNTS = """\
ProtectHome=read-only
ProtectProc=default
PrivateTmp=no
"""


def binary(wanted: Mapping[str, Any], command: Sequence[str]) -> str:
    """The unit of a binary, with its command line. `wanted` are the options of the module binary_service, `memory_max`
    in bytes.
    """
    return "".join(
        [
            _HEAD.format(description=wanted["description"], dependencies="After=network.target"),
            "Type=exec\n",
            *("ExecStartPre={}\n".format(line) for line in wanted["start_pre"]),
            "ExecStart={}/roverwatch-no-thp {}\n".format(SBIN, _continued(command)),
            "# `+`: outside the sandbox below, which could not write there.\n",
            "ExecStopPost=-+{}/roverwatch-oom-count %N\n".format(SBIN),
            "Environment={}={}\n".format(REVISION, PLACEHOLDER),
            "User=roverwatch\n",
            "Group=roverwatch\n",
            "StateDirectory=roverwatch/{}\n".format(wanted["name"]),
            "StateDirectoryMode=0750\n",
            "Restart=always\n",
            "RestartSec=2\n",
            "\n",
            _CAP.format(slice=SLICE, memory_max=wanted["memory_max"]),
            "TasksMax=256\n",
            "\n",
            "" if wanted["egress"] else _allowed(wanted["allow_from"]),
            "RestrictAddressFamilies={}\n".format(" ".join(wanted["address_families"])),
            SANDBOX,
            # Of a setting that stands twice, the last one holds.
            _SEES_MOUNTS if wanted["sees_mounts"] else "",
            PROTECT_CLOCK if wanted["protect_clock"] else _READS_CLOCK,
            "UMask=0027\n",
            _INSTALL,
        ]
    )


def _allowed(networks: Sequence[str]) -> str:
    return "IPAddressDeny=any\nIPAddressAllow={}\n".format(" ".join(["localhost", *networks]))


def _continued(words: Sequence[str]) -> str:
    """A command line, each word on a line of its own."""
    return " \\\n  ".join(words)


# Without what the machine's containers.conf may say: a slice is a cgroup of systemd, and users are the machine's own.
PODMAN = ("/usr/bin/podman", "--cgroup-manager=systemd")
_RUN = {
    "podman": [*PODMAN, "run", "--replace", "--sdnotify=conmon", "--cgroups=no-conmon", "--userns=host"],
    "docker": ["/usr/bin/docker", "run"],
}

_PODMAN = """\
# podman detaches; conmon, 2 MB, stays and is the unit's main process.
Type=notify
# conmon of Debian 12 notes an OOM kill in a file `oom` wherever it was started.
WorkingDirectory=/run
NotifyAccess=all
ExecStartPre=/usr/bin/rm -f {cid_file}
ExecStart={client}
ExecStop={podman} stop --ignore {name}
ExecStopPost=-{sbin}/roverwatch-oom-count %N podman {name}
ExecStopPost={podman} rm --force --ignore {name}
"""

_DOCKER = """\
# The container is dockerd's child, which systemd cannot watch; tail, 1 MB, ends when the container does. An attached
# docker client would do the same for 25 MB.
Type=exec
ExecStartPre=-/usr/bin/docker rm --force {name}
ExecStartPre=/usr/bin/rm -f {cid_file}
ExecStartPre={client}
ExecStart=/bin/sh -c 'exec tail -f /dev/null --pid="$$(docker inspect --format {{{{.State.Pid}}}} {name})"'
ExecStop=/usr/bin/docker stop {name}
ExecStopPost=-{sbin}/roverwatch-oom-count %N docker {name}
ExecStopPost=-/usr/bin/docker rm --force {name}
"""

# The engine's client and the supervisor have the same cap; the container itself has its own cgroup in the same slice.
_SUPERVISION = """\
Restart=always
RestartSec=2
TimeoutStartSec=60
# Where the container's id is written down. It is every instance's: one that stops leaves it to the others.
RuntimeDirectory=roverwatch
RuntimeDirectoryPreserve=yes
"""

_ENGINES = {
    "podman": ("After=network.target", _PODMAN),
    "docker": ("Requires=docker.service\nAfter=network.target docker.service", _DOCKER),
}


def cid_file(instance: str) -> str:
    """Where the engine writes down the id of an instance's container."""
    return "{}/{}.cid".format(RUN, instance)


def _client(engine: str, devices: Sequence[str], arguments: Sequence[str]) -> str:
    """The command that starts a container, with those of the devices that are there at that moment.

    An engine refuses to start with one that is not, and the other sources would be gone with its source. Which ones
    there were is in the environment, as the revision is.
    """
    run = [" ".join(_RUN[engine]), *(["--read-only-tmpfs=false"] if engine == "podman" else []), *arguments]
    if not devices:
        return _continued(run)
    there = "case $$device in /*) [ -e $${{device%%%%:*}} ];; *) grep -qrsF $${{device%%%%=*}} {};; esac".format(
        " ".join(CDI)
    )
    script = (
        "for device in {}; do if {}; then found=$$found$${{found:+,}}$$device; "
        'set -- --device=$$device "$$@"; fi; done; exec {} --env={}=$$found "$$@"'
    ).format(" ".join(devices), there, run[0], DEVICES)
    return _continued(["/bin/sh -c '{}' sh".format(script), *run[1:]])


def container(wanted: Mapping[str, Any], instance: str, image: str, config: str, secrets_dir: str) -> str:
    """The unit of a container. `wanted` are the options of the module container_service; `memory_max` is in bytes.

    `image` is its reference in the engine, `config` and `secrets_dir` what is mounted into it.
    """
    dependencies, supervisor = _ENGINES[wanted["engine"]]
    arguments = [
        "--detach",
        # Machines get images from the controller and never from anywhere else.
        "--pull=never",
        "--cidfile=" + cid_file(instance),
        "--name=" + instance,
        "--cgroup-parent=" + SLICE,
        "--memory={}".format(wanted["memory_max"]),
        # No swap: the sum of both may not be more than the cap.
        "--memory-swap={}".format(wanted["memory_max"]),
        "--pids-limit=64",
        "--network=host",
        "--read-only",
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--stop-timeout=10",
        "--log-driver=journald",
        "--env={}={}".format(REVISION, PLACEHOLDER),
        "--volume={}:/etc/roverwatch/config.toml:ro".format(config),
        *wanted["run_options"],
        *(["--volume={}:/etc/roverwatch/secrets:ro".format(secrets_dir)] if wanted["secrets"] else []),
        image,
        *wanted["args"],
    ]
    return "".join(
        [
            _HEAD.format(description=wanted["description"], dependencies=dependencies),
            supervisor.format(
                name=instance,
                cid_file=cid_file(instance),
                client=_client(wanted["engine"], wanted["devices"], arguments),
                podman=" ".join(PODMAN),
                sbin=SBIN,
            ),
            _SUPERVISION,
            _CAP.format(slice=SLICE, memory_max=wanted["memory_max"]),
            _INSTALL,
        ]
    )
