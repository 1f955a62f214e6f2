"""What the sources that talk to another machine share: its address, and a password that is kept in a file."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

# A name of this form cannot make the resolver or an HTTP request line raise.
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_MAX_PASSWORD_LENGTH = 1024

HOST = "a host name or an IP address, without a port"


class PasswordFileError(Exception):
    """The password cannot be had from its file."""


def is_host(text: str) -> bool:
    """Whether this is a host name, an IPv4 or an IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return _NAME.fullmatch(text) is not None
    return True


def read_password(path: str) -> str:
    """Read the first line of a file. Done for each connection, so that a changed password needs no restart."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            password = file.readline(_MAX_PASSWORD_LENGTH).rstrip("\r\n")
    except OSError as error:
        raise PasswordFileError(f"password_file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PasswordFileError(f"password_file {path}: is not UTF-8") from error
    if not password:
        raise PasswordFileError(f"password_file {path}: has no password in its first line")
    return password
