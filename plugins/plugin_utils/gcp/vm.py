"""A hub's VM in Google Cloud: what is to be made, what is there, and what of it may go.

What is there is never changed. A VM, an address or a disk that was made again would lose what is on it, or have another
address; where something differs from what is asked for, it is said, with the command that changes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional

# In this order: each needs those before it.
KINDS = ("address", "disk", "instance")
CALLED = {"address": "address", "disk": "data disk", "instance": "VM"}
TAG = "roverwatch-hub"
# The disk is /dev/disk/by-id/google-<this> on the VM, which files/data-disk.sh of the role knows.
DEVICE = "roverwatch"

_UP = ("PROVISIONING", "STAGING", "RUNNING")
_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,56}[a-z0-9])?")  # 63 of RFC 1035, less "-data"
_ZONE = re.compile(r"([a-z]+-[a-z]+[0-9]+)-[a-z]")
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PUBLIC_KEY = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}(?: .*)?")


@dataclass(frozen=True)
class Hub:
    """The VM that is asked for."""

    project: str
    zone: str
    name: str
    machine_type: str = ""
    disk_gb: int = 0
    site: str = ""
    fleet: str = ""
    ssh_user: str = ""
    ssh_public_key: str = ""
    startup_script: str = field(default="", repr=False)

    @property
    def region(self) -> str:
        return self.zone.rpartition("-")[0]

    @property
    def names(self) -> Dict[str, str]:
        return {"address": self.name, "disk": self.name + "-data", "instance": self.name}

    @property
    def paths(self) -> Dict[str, str]:
        """Where the API has them, by kind."""
        zone = "projects/{}/zones/{}".format(self.project, self.zone)
        region = "projects/{}/regions/{}".format(self.project, self.region)
        return {
            "address": "{}/addresses/{}".format(region, self.names["address"]),
            "disk": "{}/disks/{}".format(zone, self.names["disk"]),
            "instance": "{}/instances/{}".format(zone, self.names["instance"]),
        }

    @property
    def description(self) -> str:
        """What tells the address and the disk that were made for it from others of the same name."""
        return "Made by Roverwatch for the hub {}".format(self.name)

    @property
    def labels(self) -> Dict[str, str]:
        """The VM's: what inventory/gcp_compute.yml finds it by."""
        wanted = {"roverwatch": "hub", "site": self.site, "fleet": self.fleet}
        return {name: value for name, value in wanted.items() if value}

    @property
    def metadata(self) -> Dict[str, str]:
        return {
            "startup-script": self.startup_script,
            "ssh-keys": "{}:{}".format(self.ssh_user, self.ssh_public_key),
            # The operator's key alone: no key of the whole project, and no accounts of the organization instead of it.
            "block-project-ssh-keys": "TRUE",
            "enable-oslogin": "FALSE",
            # The way by which the VM says that its disk is mounted, and which host keys it has.
            "enable-guest-attributes": "TRUE",
        }


def problems(hub: Hub) -> List[str]:
    """A line for everything that is wrong with what is asked for."""
    found = place(hub)
    found += [
        "gcp_hub_{} is {!r}: labels at GCP have a-z, 0-9, _ and -, 63 at most".format(name, value)
        for name, value in (("site", hub.site), ("fleet", hub.fleet))
        if not _LABEL.fullmatch(value)
    ]
    if hub.disk_gb < 10:
        found.append("gcp_hub_disk_gb is {}: 10 is the least".format(hub.disk_gb))
    if not _USER.fullmatch(hub.ssh_user):
        found.append("gcp_hub_ssh_user is {!r}: name the user that Ansible is to log in as".format(hub.ssh_user))
    if "PRIVATE KEY" in hub.ssh_public_key:
        found.append("gcp_hub_ssh_public_key is a private key, which stays with you: name the file that ends in .pub")
    elif not _PUBLIC_KEY.fullmatch(hub.ssh_public_key):
        found.append(
            "gcp_hub_ssh_public_key is no file of one public key: name one such as ~/.ssh/id_ed25519.pub, a line that "
            "starts with ssh- or ecdsa-"
        )
    return found


def place(hub: Hub) -> List[str]:
    """A line for everything that is wrong with where it is."""
    found = []
    if not hub.project:
        found.append(
            "gcp_project is empty: name the project in inventory/gcp_compute.yml, and give that inventory with -i"
        )
    if not _ZONE.fullmatch(hub.zone):
        found.append(
            "gcp_zone is {!r}: name a zone such as europe-west3-c in group_vars/all/gcp.yml, or with -e gcp_zone=…; "
            "gcloud compute zones list has them all".format(hub.zone)
        )
    if not _NAME.fullmatch(hub.name):
        found.append(
            "gcp_hub_name is {!r}: use 1 to 58 of a-z, 0-9 and -, a letter first and no - at the end".format(hub.name)
        )
    return found


Found = Mapping[str, Optional[Mapping[str, Any]]]


def missing(found: Found) -> List[str]:
    """The kinds that are to be made."""
    return [kind for kind in KINDS if not found[kind]]


def strangers(hub: Hub, found: Found) -> List[str]:
    """A line for everything that has a name of ours, and is not ours or is in use elsewhere."""
    wrong = []
    vm = found["instance"]
    if vm and (vm.get("labels") or {}).get("roverwatch") != "hub":
        wrong.append(
            "the VM {} of {} is no hub: it has no label roverwatch=hub. Choose another gcp_hub_name".format(
                hub.name, hub.project
            )
        )
    for kind in ("address", "disk"):
        there = found[kind]
        if not there:
            continue
        if there.get("description") != hub.description:
            wrong.append(
                "the {} {} of {} was not made for this hub: its description is {!r}, not {!r}. "
                "Choose another gcp_hub_name".format(
                    CALLED[kind], hub.names[kind], hub.project, there.get("description", ""), hub.description
                )
            )
        others = [user for user in there.get("users") or [] if not user.endswith(hub.paths["instance"])]
        if others:
            wrong.append(
                "the {} {} of {} is in use by {}: detach it there, or choose another gcp_hub_name".format(
                    CALLED[kind], hub.names[kind], hub.project, ", ".join(map(_last, others))
                )
            )
    return wrong


def differences(hub: Hub, found: Found) -> List[str]:
    """A line for everything of a VM and a disk that are there and not as asked for, with what changes it."""
    different = []
    disk, vm = found["disk"], found["instance"]
    at = "{} --project {} --zone {}".format(hub.name, hub.project, hub.zone)
    if disk and int(disk["sizeGb"]) < hub.disk_gb:
        different.append(
            "the data disk has {} GB, gcp_hub_disk_gb is {}: gcloud compute disks resize {} --size {} --project {} "
            "--zone {}, then restart the VM, which has the file system grow".format(
                disk["sizeGb"], hub.disk_gb, hub.names["disk"], hub.disk_gb, hub.project, hub.zone
            )
        )
    elif disk and int(disk["sizeGb"]) > hub.disk_gb:
        different.append(
            "the data disk has {} GB, gcp_hub_disk_gb is {}: a disk cannot shrink, so set gcp_hub_disk_gb: {}".format(
                disk["sizeGb"], hub.disk_gb, disk["sizeGb"]
            )
        )
    if not vm:
        return different
    if vm.get("status") not in _UP:
        different.append("the VM is {}: gcloud compute instances start {}".format(vm.get("status"), at))
    if _last(vm["machineType"]) != hub.machine_type:
        different.append(
            "the VM is of type {}, gcp_hub_machine_type is {}: stop it, then gcloud compute instances "
            "set-machine-type {} --machine-type {}".format(
                _last(vm["machineType"]), hub.machine_type, at, hub.machine_type
            )
        )
    attached = _attached(hub, vm)
    if not attached or attached.get("deviceName") != DEVICE:
        different.append(
            "the data disk {} is not attached as {}, so the history is not on it: gcloud compute instances "
            "attach-disk {} --disk {} --device-name {}, then restart the VM".format(
                hub.names["disk"], DEVICE, at, hub.names["disk"], DEVICE
            )
        )
    if attached and attached.get("autoDelete"):
        different.append("the data disk would go with the VM: {}".format(_keep(hub)))
    address = (found["address"] or {}).get("address")
    public = [config.get("natIP") for nic in vm["networkInterfaces"] for config in nic.get("accessConfigs") or []]
    if address and address not in public:
        different.append(
            "the VM has the address {}, not {}, which is reserved for it: gcloud compute instances "
            "delete-access-config and add-access-config".format(", ".join(filter(None, public)) or "none", address)
        )
    if TAG not in (vm.get("tags") or {}).get("items", []):
        different.append(
            "the VM has no network tag {}, so firewall rules for hubs do not apply to it: gcloud compute instances "
            "add-tags {} --tags {}".format(TAG, at, TAG)
        )
    labels = vm.get("labels") or {}
    wrong = {name: value for name, value in hub.labels.items() if labels.get(name) != value}
    if wrong:
        pairs = ",".join("{}={}".format(*pair) for pair in sorted(wrong.items()))
        different.append(
            "labels are not as asked for: gcloud compute instances add-labels {} --labels {}".format(at, pairs)
        )
    has = _metadata(vm)
    stale = [name for name, value in hub.metadata.items() if has.get(name) != value]
    if stale:
        different.append(
            "the VM's metadata {} is not what this release would set: gcloud compute instances add-metadata {} "
            "--metadata-from-file {}".format(", ".join(stale), at, ",".join(name + "=…" for name in stale))
        )
    return different


def will_tell(hub: Hub, found: Found) -> bool:
    """Whether the VM says when its data disk is mounted: one that is made does, one that runs if it was made here."""
    vm = found["instance"]
    if not vm:
        return True
    has = _metadata(vm)
    return vm.get("status") in _UP and all(
        has.get(name) == hub.metadata[name] for name in ("startup-script", "enable-guest-attributes")
    )


def _metadata(vm: Mapping[str, Any]) -> Dict[str, str]:
    return {item["key"]: item["value"] for item in (vm.get("metadata") or {}).get("items", [])}


def _keep(hub: Hub) -> str:
    return "gcloud compute instances set-disk-auto-delete {} --no-auto-delete --disk {} --project {} --zone {}".format(
        hub.name, hub.names["disk"], hub.project, hub.zone
    )


def _attached(hub: Hub, vm: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    return next((disk for disk in vm["disks"] if disk.get("source", "").endswith(hub.paths["disk"])), None)


def _last(link: str) -> str:
    return link.rpartition("/")[2]


def in_the_way(hub: Hub, found: Found, with_disk: bool) -> List[str]:
    """A line for everything that forbids to remove the hub."""
    wrong = strangers(hub, found)
    vm = found["instance"]
    attached = _attached(hub, vm) if vm else None
    if attached and attached.get("autoDelete") and not with_disk:
        wrong.append(
            "the data disk {} would go with the VM. To keep it: {}. To remove it, too: "
            "-e gcp_hub_remove_disk=true".format(hub.names["disk"], _keep(hub))
        )
    if vm and vm.get("deletionProtection"):
        wrong.append(
            "the VM {} is protected: gcloud compute instances update {} --no-deletion-protection --project {} "
            "--zone {}".format(hub.name, hub.name, hub.project, hub.zone)
        )
    return wrong


def removable(found: Found, with_disk: bool) -> List[str]:
    """The kinds that go: the VM first, since it uses the others."""
    return [kind for kind in reversed(KINDS) if found[kind] and (kind != "disk" or with_disk)]


def host_key(attributes: Mapping[str, str]) -> str:
    """One SSH host key of those that a VM has published, as in known_hosts without the name; none is ''."""
    for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"):
        if attributes.get(kind):
            return "{} {}".format(kind, attributes[kind])
    return ""
