"""What is asked for of a backup or of a restore: the variables of the roles `backup` and `restore`, of their types."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..common import sizes

LATEST = "latest"
# Below it, not even what writes down how the run ended has room.
MEMORY_MAX_AT_LEAST = 32 << 20
_SCHEMES = {"fs": "", "s3": "https://s3.amazonaws.com", "gs": "https://storage.googleapis.com", "azblob": ""}
# Nothing that systemd would expand in a command line, and no way out of the directory.
_PATH = r"[A-Za-z0-9][A-Za-z0-9._=+-]*(?:/[A-Za-z0-9._=+-]+)*"
_DESTINATION = re.compile(r"(fs:///|s3://|gs://|azblob://){}".format(_PATH))
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# The sandbox of the run hides the first four; the stack's own directory goes with the stack.
_HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/", "/var/lib/roverwatch/")  # noqa: S108  (refused, not used)

_SECRETS_REMEDY = {
    "s3": "access_key_id and secret_access_key, and perhaps session_token and region",
    "gs": "the JSON of a service account's key as a mapping, with client_email and private_key",
    "azblob": "account_name and account_key; or account_name alone for a managed identity; or connection_string",
}


class PlanError(Exception):
    """The variables do not say what to do; the text names each that is wrong, and the remedy."""


@dataclass(frozen=True)
class Plan:
    """One backup or restore of one hub. Sizes in bytes; `rate_max` a second, 0 without a limit."""

    hub: str
    destination: str
    name: str
    memory_max: int
    endpoint: str = ""
    rate_max: int = 0
    # The hub whose backup it is, and whether a history that is there may be replaced.
    source_hub: str = ""
    replace: bool = False

    @property
    def scheme(self) -> str:
        return self.destination.partition("://")[0]

    @property
    def directory(self) -> str:
        """The directory on the hub; for `fs` alone."""
        return self.destination[len("fs://") :]

    def place(self, name: str = "") -> str:
        """Where one point of the hub's backups is, as vmbackup and vmrestore want it."""
        return "/".join([self.destination, self.source_hub or self.hub, name or self.name])

    @property
    def service_url(self) -> str:
        """What has to answer for the storage to be reachable; empty where that is not known, and for `fs`."""
        return self.endpoint or _SCHEMES[self.scheme]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read(variables: Mapping[str, object], hub: str) -> Plan:
    """The plan in the variables of a hub. Raises PlanError that says all that is wrong."""
    problems = []
    values: dict[str, Any] = {"replace": variables.get("restore_replace", False)}
    for name, (field, reader) in _READERS.items():
        if variables.get(name) or name in _NEEDED:
            try:
                values[field] = reader(variables[name])
            except ValueError as error:
                problems.append("{} is {!r}: {}".format(name, variables[name], error))
    if not variables["backup_destination"]:
        problems.append(
            "backup_destination is not set: give -e backup_destination=s3://bucket/path, or gs://, azblob:// "
            "or fs:///var/backups/roverwatch, or set it in group_vars/hubs.yml"
        )
    if problems:
        raise PlanError("; ".join(problems))
    asked = Plan(hub=hub, **values)
    if asked.endpoint and asked.scheme != "s3":
        raise PlanError("backup_endpoint is for s3:// alone, and backup_destination is {}".format(asked.destination))
    return asked


def credentials(secrets: Mapping[str, object], scheme: str) -> str:
    """The text of the file with the credentials, in the storage's own format; empty without secrets.

    Raises PlanError that names keys, and never says a value.
    """
    if not secrets:
        if scheme == "azblob":
            raise PlanError("backup_secrets is not set, and azblob:// needs {}".format(_SECRETS_REMEDY[scheme]))
        return ""
    if scheme == "fs":
        raise PlanError("backup_secrets is set, and fs:// needs none: leave it out")
    if scheme == "gs":
        if not {"client_email", "private_key"} <= set(secrets):
            raise PlanError("backup_secrets for gs:// is {}".format(_SECRETS_REMEDY[scheme]))
        return json.dumps(dict(secrets))
    wrong = [str(key) for key, value in secrets.items() if not isinstance(value, str) or not value or "\n" in value]
    if wrong:
        raise PlanError("backup_secrets: {} must be text of one line, not empty".format(", ".join(wrong)))
    required, optional, render = _FORMATS[scheme]
    given = set(secrets)
    if not any(keys <= given for keys in required) or given - set(optional):
        raise PlanError(
            "backup_secrets for {}:// is {}; it has {}".format(
                scheme, _SECRETS_REMEDY[scheme], ", ".join(sorted(map(str, given)))
            )
        )
    text: str = render({optional[key]: value for key, value in secrets.items()})
    return text


def _ini(values: Mapping[str, str]) -> str:
    return "[default]\n" + "".join("{} = {}\n".format(*item) for item in values.items())


def _environment(values: Mapping[str, str]) -> str:
    named = dict(values)
    if set(named) == {"AZURE_STORAGE_ACCOUNT_NAME"}:
        named["AZURE_USE_DEFAULT_CREDENTIAL"] = "true"
    quoted = {key: value.replace("\\", "\\\\").replace('"', '\\"') for key, value in named.items()}
    return "".join('{}="{}"\n'.format(*item) for item in quoted.items())


# By scheme: the sets of keys of which one is needed, each key with its name in the file, and the file's format.
_FORMATS: Mapping[str, Any] = {
    "s3": (
        ({"access_key_id", "secret_access_key"},),
        {
            "access_key_id": "aws_access_key_id",
            "secret_access_key": "aws_secret_access_key",
            "session_token": "aws_session_token",
            "region": "region",
        },
        _ini,
    ),
    "azblob": (
        ({"account_name"}, {"connection_string"}),
        {
            "account_name": "AZURE_STORAGE_ACCOUNT_NAME",
            "account_key": "AZURE_STORAGE_ACCOUNT_KEY",
            "connection_string": "AZURE_STORAGE_ACCOUNT_CONNECTION_STRING",
        },
        _environment,
    ),
}


def _destination(value: str) -> str:
    text = value.rstrip("/")
    if not _DESTINATION.fullmatch(text) or ".." in text.split("/"):
        raise ValueError(
            "give s3://bucket/path, gs://bucket/path, azblob://container/path or fs:///directory, of letters, digits "
            "and ._=+-/"
        )
    if text.startswith("fs://") and (text[len("fs://") :] + "/").startswith(_HIDDEN):
        raise ValueError("a backup does not go below {}: give another directory".format(", ".join(_HIDDEN)))
    return text


def _matching(pattern: re.Pattern[str], what: str) -> Any:
    def reader(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError("give {}".format(what))
        return value

    return reader


def _endpoint(value: str) -> str:
    text = value.rstrip("/")
    if not _ENDPOINT.fullmatch(text) or not urllib.parse.urlsplit(text).hostname:
        raise ValueError("give scheme, host and port alone, such as https://minio.example:9000")
    return text


def _cap(value: str) -> int:
    size = sizes.to_bytes(value)
    if size < MEMORY_MAX_AT_LEAST:
        raise ValueError("give at least {}".format(sizes.from_bytes(MEMORY_MAX_AT_LEAST)))
    return size


_POINT = "the name of a point, 1 to 63 of A-Za-z0-9._-, such as before-upgrade"
_READERS: Mapping[str, Any] = {
    "backup_destination": ("destination", _destination),
    "backup_name": ("name", _matching(_NAME, _POINT)),
    "backup_endpoint": ("endpoint", _endpoint),
    "backup_memory_max": ("memory_max", _cap),
    "backup_rate_max": ("rate_max", sizes.to_bytes),
    "restore_hub": ("source_hub", _matching(_NAME, "the inventory name of the hub whose backup it is")),
}
# The others may be empty.
_NEEDED = ("backup_name", "backup_memory_max")
