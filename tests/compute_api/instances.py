"""VMs, their disks and their addresses, as the fake Compute API has them; checked as the API checks them.

The limits are those of the API's reference for instances.insert, disks.insert and addresses.insert, and of the page
"Labels" (keys and values: 63 characters of a-z, 0-9, _ and -, 64 labels at most).

What runs inside of a VM is `Instances.boot`: the guest attributes that it has written some time after its start.
"""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from compute_api.resources import NAME, Api, ApiError, Collection, Json, Where, invalid, link, not_found, path_of

MACHINE_TYPES = {"e2-micro", "e2-small", "e2-medium", "e2-standard-2"}
DISK_TYPES = {"pd-standard", "pd-balanced", "pd-ssd"}
# Image families of other projects, and the image that each one has now.
FAMILIES = {"projects/debian-cloud/global/images/family/debian-12": "debian-12-bookworm-v20250910"}
HOST_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIKgcbnHq1UXW0NeqTSO8Xr1DeHZ5xwfsp6zXSbLQvN0m"
GUEST_ATTRIBUTES = "enable-guest-attributes"


def collections(api: Api) -> list[Collection]:
    return [Instances(api), Disks(api), Addresses(api)]


def put_vm(
    api: Api,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    zone: str = "europe-west1-b",
    public: bool = True,
    status: str = "RUNNING",
    metadata: Mapping[str, str] | None = None,
) -> Json:
    """A VM that somebody else has made."""
    where = Where(min(api.projects), f"zones/{zone}")
    zonal = f"projects/{where.project}/zones/{zone}"
    body: Json = {
        "name": name,
        "machineType": link(f"{zonal}/machineTypes/e2-small"),
        "disks": [{"boot": True, "initializeParams": {"sourceImage": next(iter(FAMILIES))}}],
        "networkInterfaces": [{"network": "global/networks/default"}],
        "metadata": {"items": [{"key": key, "value": value} for key, value in (metadata or {}).items()]},
    }
    if labels:
        body["labels"] = dict(labels)
    if public:
        body["networkInterfaces"][0]["accessConfigs"] = [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]
    collection = instances(api)
    vm = api.put(f"{where.path}/instances/{name}", collection.insert(where, body))
    return vm.update(collection.settled(vm), status=status) or vm


def instances(api: Api) -> Instances:
    collection = api.collections["zones", "instances"]
    assert isinstance(collection, Instances)
    return collection


def boot(vm: Json) -> dict[str, str]:
    """What Debian's guest agent and the startup script of a hub write, as it looks from outside."""
    disks = [disk.get("deviceName") for disk in vm["disks"]]
    written = {"hostkeys/ssh-ed25519": HOST_KEY}
    if "roverwatch/disk" in str(metadata_of(vm).get("startup-script")) or "roverwatch" in disks:
        written["roverwatch/disk"] = "ready" if "roverwatch" in disks else "failed: the disk is not there"
    return written


def metadata_of(vm: Json) -> dict[str, str]:
    return {item["key"]: item["value"] for item in vm.get("metadata", {}).get("items", [])}


class Instances(Collection):
    name = "instances"
    kind = "compute#instance"
    scope = "zones"
    aggregated = True

    def __init__(self, api: Api) -> None:
        super().__init__(api)
        self.boot: Callable[[Json], dict[str, str]] = boot
        # How often a VM is asked for its guest attributes before it has written them.
        self.boots_slowly = 0
        self._addresses = iter(ipaddress.ip_network("203.0.113.0/24").hosts())
        self._inside = iter(ipaddress.ip_network("10.132.0.0/20").hosts())

    def insert(self, where: Where, body: Json) -> Json:
        _check_labels(body.get("labels"))
        for tag in body.get("tags", {}).get("items", []):
            if not re.fullmatch(NAME, tag):
                raise invalid("resource.tags.items", tag, f"Must be a match of regex '{NAME}'")
        _referenced(where, "machineType", body.get("machineType", ""), "machineTypes", MACHINE_TYPES)
        self._check_metadata(body.get("metadata", {}).get("items", []))
        disks = [self._disk(where, body["name"], number, disk) for number, disk in enumerate(body.get("disks", []))]
        if [disk["boot"] for disk in disks].count(True) != 1 or not disks[0]["boot"]:
            raise invalid(
                "resource.disks", body.get("disks"), "One boot disk must be specified, and be the first disk."
            )
        nics = body.get("networkInterfaces", [])
        if not nics:
            raise invalid("resource.networkInterfaces", "", "At least one network interface is required.")
        return {
            "deletionProtection": False,
            "canIpForward": False,
            "scheduling": {"automaticRestart": True, "onHostMaintenance": "MIGRATE", "preemptible": False},
            **body,
            "disks": disks,
            "networkInterfaces": [self._nic(where, number, nic) for number, nic in enumerate(nics)],
            "metadata": {"kind": "compute#metadata", "fingerprint": "a=", **body.get("metadata", {})},
            "tags": {"fingerprint": "a=", **body.get("tags", {})},
            "labelFingerprint": "a=",
            "status": "RUNNING",
        }

    def appears(self, resource: Json) -> Json:
        return resource | {"status": "PROVISIONING"}

    def settled(self, resource: Json) -> Json:
        """The disk that it starts from exists, and what it uses knows by whom."""
        path = path_of(resource["selfLink"])
        for disk in resource["disks"]:
            source = path_of(disk["source"])
            if source not in self.api.store:
                made = {"sizeGb": disk["diskSizeGb"], "sourceImage": disk["licenses"][0], "status": "READY"}
                self.api.put(source, made)
            self.api.store[source]["users"] = [link(path)]
        for address in self._reserved(path_of(resource["zone"])):
            if address["address"] in _public(resource):
                address.update(status="IN_USE", users=[link(path)])
        return resource | {"status": "RUNNING"}

    def delete(self, where: Where, current: Json) -> None:
        if current["deletionProtection"]:
            raise ApiError(
                400,
                "Invalid resource usage: 'Resource cannot be deleted if it's protected against deletion. "
                "Please disable the deletion protection before deleting the resource.'.",
                "invalidResourceUsage",
            )
        for disk in current["disks"]:
            source = path_of(disk["source"])
            if disk["autoDelete"]:
                del self.api.store[source]
            else:
                del self.api.store[source]["users"]
        for address in self._reserved(path_of(current["zone"])):
            if address.get("users") == [current["selfLink"]]:
                del address["users"]
                address["status"] = "RESERVED"

    def read(self, where: Where, rest: Sequence[str]) -> Json:
        vm = self.api.store.get(f"{where.path}/instances/{rest[0]}")
        if vm is None or rest[1:] != ["getGuestAttributes"]:
            return super().read(where, rest)
        written: dict[str, str] = {}
        if metadata_of(vm).get(GUEST_ATTRIBUTES) == "TRUE":
            self.boots_slowly -= 1
            written = {} if self.boots_slowly >= 0 else self.boot(vm)
        if not written:
            # Which one was asked for is in the query, which this fake does not look at: it answers with all.
            raise ApiError(404, "The resource 'roverwatch/' of type 'Guest Attribute' was not found.")
        items = []
        for key, value in written.items():
            namespace, _, name = key.partition("/")
            items.append({"namespace": namespace, "key": name, "value": value})
        return {"kind": "compute#guestAttributes", "queryValue": {"items": items}}

    def checked_permissions(self, where: Where, action: str, name: str) -> Iterator[tuple[str, str]]:
        yield from super().checked_permissions(where, action, name)
        if action == "create":
            yield "compute.subnetworks.use", f"projects/{where.project}/regions/{_region(where)}/subnetworks/default"

    def _check_metadata(self, items: list[Json]) -> None:
        keys = [item["key"] for item in items]
        for item in items:
            if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", item["key"]) or keys.count(item["key"]) > 1:
                raise invalid("resource.metadata.items", item["key"], "Invalid or duplicate key.")
            if not isinstance(item["value"], str) or len(item["value"].encode()) > 256 << 10:
                raise invalid("resource.metadata.items", item["key"], "The value must be a string of 256 KB at most.")

    def _disk(self, where: Where, vm: str, number: int, disk: Json) -> Json:
        new = {"autoDelete": False, "boot": False, "mode": "READ_WRITE", "type": "PERSISTENT", **copy.deepcopy(disk)}
        field = f"resource.disks[{number}]"
        made = new.pop("initializeParams", None)
        if (made is None) == ("source" not in new):
            raise invalid(field, disk, "Exactly one of source and initializeParams must be specified.")
        if made is not None:
            image = path_of(made.get("sourceImage", ""))
            if image not in FAMILIES:
                raise not_found(image)
            if "diskType" in made:
                _referenced(where, f"{field}.initializeParams.diskType", made["diskType"], "diskTypes", DISK_TYPES)
            size = str(made.get("diskSizeGb", 10))
            name = made.get("diskName", vm)
            licenses = [link(image.partition("family/")[0] + FAMILIES[image])]
            new |= {"source": link(f"{where.path}/disks/{name}"), "diskSizeGb": size, "licenses": licenses}
        else:
            there = self.api.store.get(path_of(new["source"]))
            if there is None or not path_of(new["source"]).startswith(where.path):
                raise not_found(path_of(new["source"]))
            if there.get("users"):
                raise _in_use("disk", there)
            new["diskSizeGb"] = there["sizeGb"]
        return {"kind": "compute#attachedDisk", "index": number, "deviceName": f"persistent-disk-{number}", **new}

    def _nic(self, where: Where, number: int, nic: Json) -> Json:
        network = path_of(nic.get("network", "global/networks/default"))
        if network.startswith("global/"):
            network = f"projects/{where.project}/{network}"
        if network not in self.api.store:
            raise invalid(f"resource.networkInterfaces[{number}].network", network, "The network was not found.")
        configs = []
        for config in nic.get("accessConfigs", []):
            address = config.get("natIP") or str(next(self._addresses))
            if "natIP" in config:
                self._check_reserved(where, f"resource.networkInterfaces[{number}].accessConfigs[0].natIP", address)
            tier = {"kind": "compute#accessConfig", "networkTier": "PREMIUM"}
            configs.append({**tier, **config, "natIP": address})
        project, name = network.split("/")[1], network.rpartition("/")[2]
        new = {
            "kind": "compute#networkInterface",
            "networkIP": str(next(self._inside)),
            "stackType": "IPV4_ONLY",
            **nic,
            "network": link(network),
            "subnetwork": link(f"projects/{project}/regions/{_region(where)}/subnetworks/{name}"),
            "name": f"nic{number}",
        }
        return {**new, "accessConfigs": configs} if configs else new

    def _check_reserved(self, where: Where, field: str, address: str) -> None:
        found = [one for one in self._reserved(where.path) if one["address"] == address]
        if not found:
            raise invalid(field, address, "The specified external IP address was not found in the region.")
        if found[0].get("users"):
            raise _in_use("address", found[0])

    def _reserved(self, zone: str) -> list[Json]:
        region = zone.replace("/zones/", "/regions/").rpartition("-")[0]
        return [one for path, one in self.api.store.items() if path.startswith(f"{region}/addresses/")]

    def take_address(self) -> str:
        return str(next(self._addresses))


class Disks(Collection):
    name = "disks"
    kind = "compute#disk"
    scope = "zones"
    aggregated = True

    def insert(self, where: Where, body: Json) -> Json:
        _check_labels(body.get("labels"))
        type_ = body.get("type", link(f"{where.path}/diskTypes/pd-standard"))
        _referenced(where, "type", type_, "diskTypes", DISK_TYPES)
        size = str(body.get("sizeGb", "500"))
        if not size.isdigit() or not 10 <= int(size) <= 65536:
            raise invalid("resource.sizeGb", size, "Disk size must be between 10 GB and 65536 GB.")
        whole = {"type": link(path_of(type_)), "sizeGb": size, "status": "READY", "physicalBlockSizeBytes": "4096"}
        return {**body, **whole, "labelFingerprint": "a="}

    def delete(self, where: Where, current: Json) -> None:
        if current.get("users"):
            raise _in_use("disk", current)


class Addresses(Collection):
    name = "addresses"
    kind = "compute#address"
    scope = "regions"
    aggregated = True

    def insert(self, where: Where, body: Json) -> Json:
        if body.get("addressType", "EXTERNAL") != "EXTERNAL":
            raise invalid("resource.addressType", body["addressType"], "The fake has external addresses alone.")
        address = instances(self.api).take_address()
        return {"addressType": "EXTERNAL", "networkTier": "PREMIUM", **body, "address": address, "status": "RESERVED"}

    def delete(self, where: Where, current: Json) -> None:
        if current.get("users"):
            raise _in_use("address", current)


def _region(where: Where) -> str:
    return where.place.partition("/")[2].rpartition("-")[0]


def _public(vm: Json) -> list[Any]:
    return [config.get("natIP") for nic in vm["networkInterfaces"] for config in nic.get("accessConfigs", [])]


def _in_use(kind: str, resource: Json) -> ApiError:
    path, user = path_of(resource["selfLink"]), path_of(resource["users"][0])
    used = f"The {kind} resource '{path}' is already being used by '{user}'"
    return ApiError(400, used, "resourceInUseByAnotherResource")


def _check_labels(labels: object) -> None:
    if labels is None:
        return
    if not isinstance(labels, dict) or len(labels) > 64:
        raise invalid("resource.labels", labels, "At most 64 labels.")
    for key, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key) or not re.fullmatch(r"[a-z0-9_-]{0,63}", str(value)):
            raise invalid("resource.labels", f"{key}={value}", "Label keys and values have a-z, 0-9, _ and -.")


def _referenced(where: Where, field: str, given: str, kind: str, known: set[str]) -> None:
    """A zonal resource of Google's own that another one names: of the same zone, and one that there is."""
    path, _, name = path_of(given).rpartition("/")
    if path not in (f"{where.path}/{kind}", f"{where.place}/{kind}") or name not in known:
        raise invalid(f"resource.{field}", given, "The referenced resource cannot be found.")
