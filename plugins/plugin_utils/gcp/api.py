"""What the Compute API has, asked by the controller: patiently, and with errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.google.cloud.plugins.module_utils.gcp_utils import GcpSession  # type: ignore[import-untyped]
from ansible_collections.roverwatch.fleet.plugins.module_utils.roverwatch.common import retry
from google.auth.exceptions import GoogleAuthError
from requests.exceptions import RequestException

BASE = "https://compute.googleapis.com/compute/v1/"
SCOPES = ["https://www.googleapis.com/auth/compute"]
SECONDS = 30
LOGINS = {
    "application": "gcloud auth application-default login, or name a key file in GOOGLE_APPLICATION_CREDENTIALS",
    "serviceaccount": "name the account's key file in GCP_SERVICE_ACCOUNT_FILE",
    "accesstoken": 'export GCP_ACCESS_TOKEN="$(gcloud auth print-access-token)"',
    "machineaccount": "run this on a VM of GCP that has a service account",
}
# The API names what is missing; which role has it, it does not.
REMEDY = (
    "Have somebody give the account a role with this permission in project {}, such as roles/compute.instanceAdmin.v1 "
    "(for addresses: roles/compute.publicIpAdmin)"
)


class GcpError(Exception):
    """What went wrong, for an operator."""


class _Params:
    """As much of a module as GcpSession wants."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params

    def fail_json(self, msg: str) -> None:
        raise GcpError(msg)


class Compute:
    """Reads the Compute API as the modules of google.cloud do, with the same credentials."""

    def __init__(self, project: str, credentials: Mapping[str, Any], say: Callable[[str], object]) -> None:
        self._project = project
        self._kind = credentials["auth_kind"]
        self._say = say
        params = {"scopes": SCOPES, "service_account_email": None, "service_account_contents": None, **credentials}
        try:
            self._session: Any = GcpSession(_Params(params), "compute").session()
        except (GoogleAuthError, OSError, ValueError) as error:
            raise self._no_login(error) from error

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """The resource, or None if there is none. Raises GcpError if that cannot be known."""
        try:
            answer = retry.patiently(lambda: self._once(path, query))
        except retry.Again as error:
            raise GcpError(f"{error}. It was asked {retry.ATTEMPTS} times: run this again later") from error
        if answer.status_code == 200:
            found: dict[str, Any] = answer.json()
            return found
        said = _message(answer)
        if answer.status_code == 404 and (f"'{path}'" in said or "'Guest Attribute'" in said):
            return None
        if answer.status_code == 404:
            raise GcpError(f"{said}. Is gcp_project ({self._project}) right, and the zone (gcp_zone)?")
        if answer.status_code == 403:
            raise GcpError(f"Google Cloud refuses it: {said}. {REMEDY.format(self._project)}")
        raise GcpError(f"The Compute API answers {answer.status_code}: {said}")

    def _once(self, path: str, query: Mapping[str, str] | None) -> Any:
        try:
            answer = self._session.get(BASE + path, params=query, timeout=SECONDS)
        except GoogleAuthError as error:
            raise self._no_login(error) from error
        except RequestException as error:
            raise self._again(f"The Compute API cannot be reached: {error}") from error
        if answer.status_code == 429 or answer.status_code >= 500:
            raise self._again(f"The Compute API answers {answer.status_code}: {_message(answer)}")
        return answer

    def _again(self, why: str) -> retry.Again:
        self._say(why)
        return retry.Again(why)

    def _no_login(self, why: object) -> GcpError:
        return GcpError(f"No login at Google Cloud with gcp_auth_kind {self._kind}: {why}. Try: {LOGINS[self._kind]}")


def _message(answer: Any) -> str:
    """What the API says, or the first of what a proxy says in its place."""
    try:
        said = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = " ".join(re.sub(r"<[^>]*>", " ", answer.text).split())[:200]
    return said.rstrip(".")
