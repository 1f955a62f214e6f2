"""What must hold before anything on a machine is touched. Each function returns what is wrong, a line each.

A line names the variable or the thing, and says what to do; the caller puts the host in front.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common.sizes import from_bytes, to_bytes
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.hub import gateway

ARCHITECTURES = ("x86_64", "aarch64")

_DEVICE = re.compile(
    r"/[A-Za-z0-9/_.@+-]+(:/[A-Za-z0-9/_.@+-]+)?(:[rwm]{1,3})?|[A-Za-z0-9.-]+/[A-Za-z0-9_.-]+=[A-Za-z0-9_.:-]+",
    re.ASCII,
)

# So many machines are named in a line, and so long is a value that is shown.
FEW = 3
LONGEST = 60

# Of fleet_secret: every password at the hubs can be computed from it, so it must not be found by trying.
SECRET_CHARACTERS = 32
NEW_ONE = (
    'ansible-vault encrypt_string --name fleet_secret "$(openssl rand -hex 32)" >> group_vars/all/vault.yml makes one'
)


def machine(found: Mapping[str, Any], needed_bytes: int, controller_time: float, clock_skew_max: float) -> List[str]:
    """Whether the machine is one that the roles know how to serve. `needed_bytes` must be free on its disk."""
    problems = []
    if found["architecture"] not in ARCHITECTURES:
        problems.append(
            "architecture {} is not supported: artifacts exist for {}. On a 32-bit system of a 64-bit board, install "
            "the 64-bit one".format(found["architecture"], " and ".join(ARCHITECTURES))
        )
    if found["init"] != "systemd":
        problems.append(
            "PID 1 is {}, not systemd: the caps and the restarts of every service are systemd's. Use a system that "
            "boots with it, such as Debian 12 or 13".format(found["init"])
        )
    if not found["cgroup_version"]:
        problems.append(
            "the kernel's memory controller is off, so no cap would hold. {}, then reboot".format(
                "Add cgroup_enable=memory cgroup_memory=1 to the one line of /boot/firmware/cmdline.txt "
                "(/boot/cmdline.txt before Debian 12)"
                if "Raspberry" in found["model"]
                else "Boot the kernel with cgroup_enable=memory (and without cgroup_disable=memory); on a Raspberry Pi "
                "add cgroup_enable=memory cgroup_memory=1 to /boot/firmware/cmdline.txt"
            )
        )
    if found["disk_free"] < needed_bytes:
        problems.append(
            "{} are free for /opt/roverwatch, {} are needed (artifacts and base_disk_reserve): free some, or lower "
            "base_disk_reserve".format(from_bytes(found["disk_free"]), from_bytes(needed_bytes))
        )
    if found["user"] != "root":
        problems.append(
            "the run is {} on the machine, not root, and can make nothing there: ansible_become is off, or "
            "ansible_become_user is another one".format(found["user"])
        )
    skew = found["time"] - controller_time
    if abs(skew) > clock_skew_max:
        problems.append(
            "the clock is {:.0f} s {} the controller's (base_clock_skew_max is {:g}): samples would land at the wrong "
            "time. Set it: timedatectl set-ntp true".format(
                abs(skew), "ahead of" if skew > 0 else "behind", clock_skew_max
            )
        )
    return problems


def caps(roles: Iterable[str], values: Mapping[str, Any]) -> Dict[str, List[object]]:
    """The caps that the roles put into the budget, by the variable that sets them, once for each instance."""
    named = {role: role + "_memory_max" for role in roles if role + "_memory_max" in values}
    return {name: [values[name]] * int(values.get(role + "_instances", 1)) for role, name in named.items()}


def artifacts(roles: Iterable[str], values: Mapping[str, Any]) -> Dict[str, str]:
    """The artifacts that the roles need, with their versions."""
    return {
        values.get(role + "_artifact", role): values[role + "_version"] for role in roles if role + "_version" in values
    }


def no_versions(names: Iterable[str], pins: str, inventory: str) -> str:
    """For an inventory that has none of the group_vars."""
    return (
        "no version is set for {}: artifacts_versions has them, of group_vars/all/artifacts.yml beside the inventory. "
        "Where that is missing: cp -rL {} {}/".format(", ".join(sorted(names)), pins, inventory)
    )


def budget(memory_budget: object, memory_caps: Mapping[str, Sequence[object]]) -> List[str]:
    """Whether every cap is a size, and all of them together fit into the budget."""
    problems = []
    for name, size in {"memory_budget": memory_budget, **{n: s[0] for n, s in memory_caps.items()}}.items():
        try:
            to_bytes(size)
        except ValueError as error:
            problems.append("{}: {}".format(name, error))
    if problems:
        return problems
    total = sum(to_bytes(size) for sizes in memory_caps.values() for size in sizes)
    if total > to_bytes(memory_budget):
        listed = ["{} {}".format(name, " + ".join(map(str, sizes))) for name, sizes in sorted(memory_caps.items())]
        problems.append(
            "the caps add up to {}, more than memory_budget, which is {}: {}. Lower a cap or raise the budget".format(
                from_bytes(total), from_bytes(to_bytes(memory_budget)), ", ".join(listed)
            )
        )
    return problems


def variables(role: str, options: Mapping[str, Any], values: Mapping[str, Any]) -> Tuple[Dict[str, Any], List[str]]:
    """A role's variables as the types of its meta/argument_specs.yml, and what is wrong with the others.

    `values` are all variables of the host that start with the role's name. One that the role does not know is most
    often misspelt, and would otherwise do nothing.
    """
    right: Dict[str, Any] = {}
    problems = []
    known = sorted(set(values) & set(options))
    # All at once is much faster than one after the other, which tells the wrong ones from the right ones.
    together = ArgumentSpecValidator({name: options[name] for name in known}).validate(
        {name: values[name] for name in known}
    )
    if not together.error_messages:
        right = {name: together.validated_parameters[name] for name in known}
    for name in known if together.error_messages else []:
        result = ArgumentSpecValidator({name: options[name]}).validate({name: values[name]})
        if not result.error_messages:
            right[name] = result.validated_parameters[name]
        elif secret(options[name]):
            problems.append(
                "role {}: {} is not what it should be: {}. Its value is not shown".format(
                    role, name, options[name].get("type", "str")
                )
            )
        else:
            given = repr(values[name])
            it_is = "" if given in str(result.error_messages) or len(given) > LONGEST else "; it is {}".format(given)
            problems += ["role {}: {}{}".format(role, message, it_is) for message in result.error_messages]
    problems += [unknown(role, name, options) for name in sorted(set(values) - set(options))]
    return right, problems


def unknown(role: str, name: str, known: Iterable[str]) -> str:
    """A variable that has the name of a role in front and is none of those that are known."""
    close = difflib.get_close_matches(name, known, 1)
    return "role {} has no variable {}{}".format(role, name, ": did you mean {}?".format(close[0]) if close else "")


def secret(option: Mapping[str, Any]) -> bool:
    """Whether a variable's value, or a part of it, must be in no message."""
    return bool(option.get("no_log")) or any(secret(part) for part in option.get("options", {}).values())


def fleet_secret(value: object) -> List[str]:
    """Whether the fleet's secret is one; the value is in no line."""
    if value is None or value == "":
        return ["fleet_secret is not set, and every password at the hubs is computed from it: " + NEW_ONE]
    if not isinstance(value, str):
        return ["fleet_secret is no text: put it into quotes"]
    if len(value) < SECRET_CHARACTERS:
        return [
            "fleet_secret has {} characters, at least {} are needed: {}".format(len(value), SECRET_CHARACTERS, NEW_ONE)
        ]
    return []


def hubs(listed: Sequence[Mapping[str, Any]]) -> List[str]:
    """Whether each entry of vmagent_hubs is a hub."""
    problems = []
    for hub in listed:
        if not hub.get("url"):
            continue  # said below
        try:
            gateway.endpoint(str(hub["url"]))
        except ValueError as error:
            name = hub.get("name") or "without a name"
            problems.append("vmagent_hubs: hub {}: url {}: correct hub_url or hub_address".format(name, error))
    for key in ("name", "url"):
        values = [hub.get(key) for hub in listed]
        if None in values or "" in values:
            problems.append("vmagent_hubs: each hub needs a {}".format(key))
        for value in sorted({str(value) for value in values if value and values.count(value) > 1}):
            problems.append("vmagent_hubs: two hubs have the {} {}".format(key, value))
    return problems


def reached(name: str, url: str, kind: str, reason: str, authorities: str) -> str:
    """What keeps a robot from a hub, from the `kind` of the gateway's fault; `authorities` is vmagent_hub_ca."""
    deploy = "ansible-playbook playbooks/site.yml --limit {}".format(name)
    renew = "{} renews a certificate that was made here; one of your own (vmauth_tls_cert) you bring anew".format(
        deploy
    )
    signed = "vmagent_hub_ca ({})".format(authorities) if authorities else "an authority that the system trusts"
    what, remedy = {
        gateway.NAME: (
            "its name does not resolve: {}".format(reason),
            "Set hub_address of {} to a name or an address that robots know".format(name),
        ),
        gateway.AUTHORITY: (
            "its certificate is not signed by {}: {}".format(signed, reason),
            "Name the authority of the hub's certificate in vmagent_hub_ca; {}".format(renew),
        ),
        gateway.HOSTNAME: (
            "its certificate is not for this name: {}".format(reason),
            "Have the name in vmauth_tls_names of {} and in its certificate, or another hub_address; {}".format(
                name, renew
            ),
        ),
        gateway.EXPIRED: ("its certificate has expired", renew[0].upper() + renew[1:]),
        gateway.NOT_YET_VALID: (
            "its certificate is not valid yet",
            "Set the robot's clock and the controller's: timedatectl set-ntp true",
        ),
        gateway.TLS: (
            "what answers there does not speak TLS: {}".format(reason),
            "Have hub_url of {} name the port of its gateway (vmauth_port)".format(name),
        ),
    }.get(
        kind,
        (
            reason,
            "Is the hub deployed and running ({}), does hub_address of {} name it, and do firewall_rules let this "
            "robot's network in (robot_networks)?".format(deploy, name),
        ),
    )
    return "hub {} cannot be used: {}: {}. {}".format(name, url, what, remedy)


_USES = {
    "staging": "where what Ansible brings arrives",
    "packages": "where the packages of the container engine and nftables are installed",
    "storage": "where the container engine keeps images",
    "temporary": "where the container engine puts an image together",
}
_MOVES = {
    "staging": "set ansible_remote_tmp to a directory with more",
    "storage": "give it a larger disk",
    "temporary": "have image_copy_tmp_dir in /etc/containers/containers.conf name a directory with more",
}


def written(places: Mapping[str, Mapping[str, Any]], needs: Mapping[str, int]) -> List[str]:
    """What a run could not write, or not start, a line for each place (`places.tried`).

    Of a place that artifacts pass through only if some do, by `needs`.
    """
    problems = []
    for use, place in places.items():
        if use in ("staging", "temporary") and not needs[use]:
            continue
        where = "{} ({})".format(place["path"], _USES[use]) if use in _USES else place["path"]
        if place["error"]:
            who = " by {}".format(place["user"]) if place.get("user") else ""
            problems.append("{} cannot be written{}: {}. {}".format(where, who, place["error"], _writable(use, place)))
        elif place["no_inodes"]:
            problems.append("{} is on a file system without a free inode (df -i): remove files there".format(where))
        if place["noexec"]:
            problems.append(
                "{} is on a file system that is mounted noexec, and programs are started from there: mount -o "
                "remount,exec it, or mount another one at {}".format(where, place["path"])
            )
    return problems


def _writable(use: str, place: Mapping[str, Any]) -> str:
    if place["error"] in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)):
        return "Free some"
    if use == "staging":
        return "Make it writable for that user, or set ansible_remote_tmp to a directory that is"
    if use == "packages":
        return "Make it writable, or have podman (container_engine) and nftables in the system's image"
    return (
        "Make it writable. Where the system is read-only and updated as a whole, mount a directory of a disk that "
        "stays: mount --bind /var/roverwatch{0} {0}, and the same in /etc/fstab".format(place["path"])
    )


def room(places: Mapping[str, Mapping[str, Any]], needs: Mapping[str, int]) -> List[str]:
    """File systems on which what passes through is too much. `needs` is in bytes, by a place's use; what is to stay in
    /opt/roverwatch counts where it shares a file system with others.
    """
    by_device: Dict[int, List[str]] = {}
    for use in needs:
        if use in places and needs[use]:
            by_device.setdefault(places[use]["device"], []).append(use)
    problems = []
    for uses in by_device.values():
        free, needed = min(places[use]["free"] for use in uses), sum(needs[use] for use in uses)
        if free < needed and set(uses) & set(_USES):
            listed = [
                "{} at {} ({})".format(from_bytes(needs[use]), places[use]["path"], _USES.get(use, "what stays"))
                for use in uses
            ]
            problems.append(
                "{} are free for {}, {} are needed: {}. Free some, or {}".format(
                    from_bytes(free),
                    " and ".join(places[use]["path"] for use in uses),
                    from_bytes(needed),
                    ", ".join(listed),
                    ", or ".join(_MOVES[use] for use in uses if use in _MOVES),
                )
            )
    return problems


def image_policy(says: str) -> List[str]:
    """What keeps podman from loading an image (`places.policy`)."""
    return [
        "podman loads no image from an archive, by /etc/containers/policy.json: {}. Have it accept those, whose sha256 "
        'Roverwatch compares itself: "transports": {{"docker-archive": {{"": [{{"type": '
        '"insecureAcceptAnything"}}]}}}}'.format(says)
    ] * bool(says)


def devices(listed: Sequence[str]) -> List[str]:
    """Whether these are paths of devices, as an engine takes them."""
    return [
        "sensor_service_devices: {!r} is no device: write a path such as /dev/ttyUSB0, PATH:PATH_IN_CONTAINER, or "
        "KIND=NAME such as nvidia.com/gpu=all".format(device)
        for device in listed
        if not _DEVICE.fullmatch(device)
    ]


def absent_devices(missing: Sequence[str]) -> str:
    """Devices of the sensor service that are not there."""
    return (
        "sensor_service_devices: {} {} not there now. The service runs without; its source says that it is down. Once "
        "plugged in, run this again, or systemctl restart roverwatch-sensor".format(
            " and ".join(missing), "is" if len(missing) == 1 else "are"
        )
    )


def same_machine(name: str, others: Sequence[str], by_address: bool) -> str:
    """A machine that the run knows by several names."""
    why = "the inventory has one address for them" if by_address else "different addresses lead to it"
    return "{} and {} are the same machine: {}. Correct ansible_host or ansible_port, or take a name out".format(
        name, _named(others), why
    )


def _named(machines: Sequence[str]) -> str:
    """A few of them by name: a fleet may be made of one card."""
    more = ["{} others".format(len(machines) - FEW)] if len(machines) > FEW else []
    return " and ".join([*machines[:FEW], *more])


def same_disk(others: Sequence[str]) -> str:
    """A machine whose disk is a copy of another one's."""
    return (
        "its /etc/machine-id is also that of {}, another machine: a copied card or image. Networks may give both one "
        "address: rm /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup; reboot".format(_named(others))
    )


def other_machine(name: str, before: str) -> str:
    """A machine that the last run called otherwise."""
    return (
        "this machine was deployed as {1}, and the inventory calls it {0}: has {1} its address, or are two lines of "
        "the inventory swapped? If it is to be {0} from now on (renamed, or its card is a copy): "
        "-e base_previous_name={1} --limit {0}".format(name, before)
    )


def other_authority(ours: str, robot: str, theirs: str) -> str:
    """A hub whose certificate robots would refuse."""
    return (
        "its certificate is of the authority in {}, and {} looks for one in {} (vmagent_hub_ca), so robots would "
        "refuse this hub: set pki_dir to one directory for robots and hubs".format(ours, robot, theirs)
    )
