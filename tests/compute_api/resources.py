"""What the fake Compute API holds: collections of resources, operations that take a moment, errors, faults on demand.

A collection of your own
------------------------
Subclass `Collection` once for each kind, and hand the instances to the API:

    class Disks(Collection):
        name = "disks"                # in the URL: projects/P/zones/Z/disks
        kind = "compute#disk"
        scope = "zones"               # or "global", "regions"
        aggregated = True             # answers projects/P/aggregated/disks, too

        def insert(self, where, body):      # a POST's body; returns the resource, validated, with the API's defaults
            ...
            return body

`tests/compute_api/instances.py` defines `collections(api) -> list[Collection]`, and the server registers what it
returns, beside the firewalls. The rest is done here: kind, id, selfLink, creationTimestamp, zone or region, names
(RFC 1035, unique: 409), paging, filter, permissions (compute.<name>.create, .get, .list, .update, .delete, .<verb>),
operations, the record of requests. What a collection overrides is called with the API's lock held, so it may read and
change `self.api.store` as it likes:

    insert(where, body)             the resource that a POST makes
    patch(where, current, body)     the resource after a PATCH; JSON merge patch unless overridden
    delete(where, current)          raise ApiError (400 resourceInUseByAnotherResource) to refuse
    verb(where, current, verb, body, query)   POST …/name/verb, such as setLabels, resize, start: the resource after it
    read(where, rest)               GET of what lies deeper than a name: images/family/debian-12
    appears                         what the resource is while its insert runs (PROVISIONING); None: not there yet
    settled(resource)               what the resource is once an insert, patch or verb of it is done (RUNNING)
    checked_permissions(where, action, name)   more permissions than the usual one

All raise `ApiError`, which is answered as the API does: `invalid("resource.name", value, why)`, `not_found(path)`.

Paths such as `projects/P/zones/Z/disks/NAME` are the keys of `api.store`; `link(path)` is the selfLink.
Projects that exist are in `api.projects`, zones in `api.zones`; a region is a zone without its last part.
"""

from __future__ import annotations

import copy
import fnmatch
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

Json = dict[str, Any]

LINK = "https://www.googleapis.com/compute/v1/"
# RFC 1035, as the API's reference says of every name; the message of its refusals has this very expression in it.
NAME = r"(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)"
# maxResults: "Acceptable values are 0 to 500, inclusive. (Default: 500)" (reference of every list method).
PAGE = 500
PACIFIC = timezone(timedelta(hours=-8))

REASONS = {
    400: ("invalid", "Invalid value."),
    403: ("forbidden", "Forbidden."),
    404: ("notFound", "The resource was not found."),
    409: ("alreadyExists", "The resource already exists."),
    429: ("rateLimitExceeded", "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'."),
    500: ("backendError", "Internal error. Please try again or contact Google Support."),
    503: ("backendError", "The service is currently unavailable."),
}


class ApiError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str = "", reason: str = "") -> None:
        self.status = status
        self.reason = reason or REASONS[status][0]
        self.message = message or REASONS[status][1]
        super().__init__(self.message)

    def body(self) -> Json:
        error = {"message": self.message, "domain": "global", "reason": self.reason}
        return {"error": {"code": self.status, "message": self.message, "errors": [error]}}


def invalid(name: str, value: object, why: str) -> ApiError:
    """400, in the words that the API has for a field: `resource.name`."""
    return ApiError(400, f"Invalid value for field '{name}': '{value}'. {why}")


def not_found(path: str) -> ApiError:
    return ApiError(404, f"The resource '{path}' was not found")


def link(path: str) -> str:
    return LINK + path


def path_of(link_: str) -> str:
    """The path that a full or partial link means: from `projects/` on."""
    return link_.rpartition("/compute/v1/")[2].lstrip("/")


@dataclass(frozen=True)
class Where:
    """Where a collection is asked: a project, and `global`, `zones/Z` or `regions/R` in it."""

    project: str
    place: str

    @property
    def path(self) -> str:
        return f"projects/{self.project}/{self.place}"


@dataclass(frozen=True)
class Request:
    """A request that the API got, and what it answered."""

    method: str
    host: str
    path: str  # without /compute/v1/: projects/P/global/firewalls
    query: Mapping[str, str]
    body: Any
    status: int


@dataclass
class Fault:
    method: str
    path: str
    status: int
    times: int
    error: ApiError | None
    text: str
    in_operation: bool


@dataclass
class Operation:
    path: str
    body: Json
    # Polls of it that are still answered RUNNING, and requests of other things until it ends unwatched.
    polls: int
    others: int
    finish: Callable[[], object]
    error: ApiError | None = None


class Collection:
    """One kind of resource; the module's docstring says how to make one."""

    name = ""
    kind = ""
    scope = "global"
    aggregated = False

    def __init__(self, api: Api) -> None:
        self.api = api

    def insert(self, where: Where, body: Json) -> Json:
        return body

    def patch(self, where: Where, current: Json, body: Json) -> Json:
        return merged(current, body)

    def delete(self, where: Where, current: Json) -> None:
        pass

    def verb(self, where: Where, current: Json, verb: str, body: Json, query: Mapping[str, str]) -> Json:
        raise not_found(f"{where.path}/{self.name}/{current['name']}/{verb}")

    def read(self, where: Where, rest: Sequence[str]) -> Json:
        raise not_found("/".join((where.path, self.name, *rest)))

    def appears(self, resource: Json) -> Json | None:
        return None

    def settled(self, resource: Json) -> Json:
        return resource

    def checked_permissions(self, where: Where, action: str, name: str) -> Iterator[tuple[str, str]]:
        """Permission and resource, for create, get, list, update, delete, or a verb."""
        path = f"{where.path}/{self.name}/{name}"
        yield f"compute.{self.name}.{action}", f"projects/{where.project}" if action == "list" else path


@dataclass
class Api:
    """The store, what it was asked, and what shall go wrong."""

    store: dict[str, Json] = field(default_factory=dict)
    projects: set[str] = field(default_factory=lambda: {"demo"})
    zones: list[str] = field(default_factory=lambda: ["europe-west1-b", "europe-west1-c", "us-central1-a"])
    tokens: set[str] = field(default_factory=lambda: {"ya29.a-token-of-the-test"})
    accounts: dict[str, RSAPublicKey] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    refused_hosts: list[str] = field(default_factory=list)
    # How often an operation is asked for, after its first answer, and still says RUNNING; -1 is done at once.
    polls: int = 0
    # Set by the server: for subprocesses, and where it may write.
    environment: dict[str, str] = field(default_factory=dict)
    directory: Path = Path()

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.collections: dict[tuple[str, str], Collection] = {}
        self._operations: dict[str, Operation] = {}
        self._faults: list[Fault] = []
        self._denied: set[str] = set()
        self._ids = 4_000_000_000_000_000_000

    # what tests say

    @property
    def token(self) -> str:
        """One that is let in."""
        return min(self.tokens)

    @property
    def writes(self) -> list[Request]:
        """The requests that were to change something."""
        return [one for one in self.requests if one.method != "GET" and one.path.startswith("projects/")]

    @property
    def reads(self) -> list[Request]:
        return [one for one in self.requests if one.method == "GET"]

    def register(self, collection: Collection) -> None:
        self.collections[collection.scope, collection.name] = collection

    def fail(
        self,
        method: str = "*",
        path: str = "*",
        status: int = 503,
        times: int = 1,
        *,
        message: str = "",
        reason: str = "",
        text: str = "",
        in_operation: bool = False,
    ) -> None:
        """Let the next requests that match go wrong; `path` is a pattern as for file names.

        `text` is answered instead of JSON, as a proxy does; status 0 closes the connection; with `in_operation` the
        request is taken, and its operation ends with the error.
        """
        error = ApiError(status, message, reason) if status and not text else None
        self._faults.append(Fault(method, path, status, times, error, text, in_operation))

    def deny(self, *permissions: str) -> None:
        """Take permissions from the caller: compute.firewalls.create."""
        self._denied.update(permissions)

    def put(self, path: str, resource: Json) -> Json:
        """Have a resource in the store as it is given, without any check; what only the API sets is added."""
        place, _, name = path.rpartition("/")
        where = Where(place.split("/")[1], "/".join(place.split("/")[2:-1]))
        collection = self._collection(where, place.rpartition("/")[2])
        self.store[path] = self._finished(collection, where, {**copy.deepcopy(resource), "name": name})
        return self.store[path]

    # what the server asks

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self._faults:
            if fault.times and fnmatch.fnmatch(method, fault.method) and fnmatch.fnmatch(path, fault.path):
                fault.times -= 1
                return fault
        return None

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Json, failing: ApiError | None) -> Json:
        """What a request that is authenticated gets."""
        parts = path.split("/")
        if len(parts) < 3 or parts[0] != "projects":
            raise ApiError(404, "Not Found")
        project, rest = parts[1], parts[2:]
        if project not in self.projects:
            raise not_found(f"projects/{project}")
        self._tick(path)
        if method == "GET" and rest[0] == "aggregated":
            return self._aggregated(project, rest[1], query)
        width = 1 if rest[0] == "global" else 2
        where = Where(project, "/".join(rest[:width]))
        self._check_place(where, rest)
        if method == "GET" and len(rest) == width == 2:
            return {"kind": f"compute#{rest[0][:-1]}", "name": rest[1], "selfLink": link(where.path), "status": "UP"}
        if rest[width] == "operations":
            return self._operation(path)
        return self._dispatch(method, where, rest[width:], query=query, body=body, failing=failing)

    def _dispatch(
        self,
        method: str,
        where: Where,
        rest: list[str],
        *,
        query: Mapping[str, str],
        body: Json,
        failing: ApiError | None,
    ) -> Json:
        name, *rest = rest
        collection = self._collection(where, name)
        if not rest and method == "GET":
            self._allow(collection, where, "list", "")
            found = [resource for path, resource in self._of(where, name)]
            return self._listed(f"{where.path}/{name}", collection.kind + "List", found, query)
        if not rest and method == "POST":
            return self._insert(collection, where, body, failing)
        if method == "GET" and len(rest) > 1:
            return collection.read(where, rest)
        path = f"{where.path}/{name}/{rest[0]}"
        actions = {"GET": "get", "PATCH": "update", "DELETE": "delete"}
        action = rest[1] if method == "POST" and len(rest) == 2 else actions.get(method, "")
        if not action:
            raise ApiError(404, "Not Found")
        self._allow(collection, where, action, rest[0])
        if path not in self.store:
            raise not_found(path)
        current = copy.deepcopy(self.store[path])
        if method == "GET":
            return current
        if method == "DELETE":
            collection.delete(where, current)
            return self._start(where, "delete", path, lambda: self.store.pop(path, None), failing)
        if method == "PATCH":
            action, new = "patch", collection.patch(where, current, body)
        else:
            new = collection.verb(where, current, action, body, query)

        def finish() -> None:
            self.store[path] = collection.settled(new)

        return self._start(where, action, path, finish, failing)

    def _insert(self, collection: Collection, where: Where, body: Json, failing: ApiError | None) -> Json:
        name = body.get("name", "")
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise invalid("resource.name", name, f"Must be a match of regex '{NAME}'")
        self._allow(collection, where, "create", name)
        path = f"{where.path}/{collection.name}/{name}"
        running = any(one.path == path and one.body["status"] != "DONE" for one in self._operations.values())
        if path in self.store or running:
            raise ApiError(409, f"The resource '{path}' already exists")
        resource = self._finished(collection, where, collection.insert(where, copy.deepcopy(body)))
        early = collection.appears(copy.deepcopy(resource))
        if early is not None and not failing:
            self.store[path] = early

        def finish() -> None:
            self.store[path] = collection.settled(resource)

        return self._start(where, "insert", path, finish, failing)

    def _finished(self, collection: Collection, where: Where, resource: Json) -> Json:
        self._ids += 1
        path = f"{where.path}/{collection.name}/{resource['name']}"
        only_the_apis = {
            "kind": collection.kind,
            "id": str(self._ids),
            "creationTimestamp": datetime.now(PACIFIC).isoformat(timespec="milliseconds"),
            "selfLink": link(path),
        }
        if where.place != "global":
            only_the_apis[where.place.split("/")[0][:-1]] = link(where.path)
        return {**resource, **only_the_apis}

    def _collection(self, where: Where, name: str) -> Collection:
        try:
            return self.collections[where.place.split("/")[0], name]
        except KeyError:
            raise ApiError(404, f"The fake has no collection {where.path}/{name}") from None

    def _check_place(self, where: Where, rest: Sequence[str]) -> None:
        regions = {zone.rpartition("-")[0] for zone in self.zones}
        known = {"global": {""}, "zones": set(self.zones), "regions": regions}
        kind, _, name = where.place.partition("/")
        if kind not in known or (kind == "global" and len(rest) < 2):
            raise ApiError(404, "Not Found")
        if name not in known[kind]:
            raise not_found(where.path)

    def _allow(self, collection: Collection, where: Where, action: str, name: str) -> None:
        for permission, resource in collection.checked_permissions(where, action, name):
            if permission in self._denied:
                raise ApiError(403, f"Required '{permission}' permission for '{resource}'")

    def _of(self, where: Where, name: str) -> list[tuple[str, Json]]:
        prefix = f"{where.path}/{name}/"
        return sorted((path, resource) for path, resource in self.store.items() if path.startswith(prefix))

    # lists

    def _listed(self, path: str, kind: str, found: list[Json], query: Mapping[str, str]) -> Json:
        page, token = self._page([one for one in found if matches(query.get("filter", ""), one)], query)
        answer: Json = {"kind": kind, "id": path, "selfLink": link(path)}
        if page:
            answer["items"] = copy.deepcopy(page)
        return {**answer, **token}

    def _page(self, found: list[Any], query: Mapping[str, str]) -> tuple[list[Any], Json]:
        size = query.get("maxResults") or str(PAGE)
        if not size.isdigit() or int(size) > PAGE:
            raise ApiError(400, f"Invalid value for field 'maxResults': '{size}'. Must be between 0 and {PAGE}.")
        token = query.get("pageToken") or "page-0"
        if not re.fullmatch(r"page-[0-9]+", token):
            raise ApiError(400, f"Invalid value for field 'pageToken': '{token}'.")
        start = int(token.removeprefix("page-"))
        end = start + (int(size) or PAGE)
        return found[start:end], {"nextPageToken": f"page-{end}"} if end < len(found) else {}

    def _aggregated(self, project: str, name: str, query: Mapping[str, str]) -> Json:
        """By place. Those without anything have a warning instead, as the API says it."""
        found = [one for (_, its), one in self.collections.items() if its == name and one.aggregated]
        if not found:
            raise ApiError(404, "Not Found")
        places: list[str] = []
        for collection in found:
            self._allow(collection, Where(project, "global"), "list", "")
            regions = sorted({zone.rpartition("-")[0] for zone in self.zones})
            names = {"global": [""], "zones": self.zones, "regions": regions}[collection.scope]
            places += [f"{collection.scope}/{one}".rstrip("/") for one in names]
        every = [
            (place, resource)
            for place in places
            for _, resource in self._of(Where(project, place), name)
            if matches(query.get("filter", ""), resource)
        ]
        page, token = self._page(every, query)
        items: dict[str, Json] = {}
        for place in places:
            here = [copy.deepcopy(resource) for its, resource in page if its == place]
            warning = {
                "code": "NO_RESULTS_ON_PAGE",
                "message": f"There are no results for scope '{place}' on this page.",
            }
            items[place] = {name: here} if here else {"warning": warning}
        path = f"projects/{project}/aggregated/{name}"
        kind = f"{found[0].kind}AggregatedList"
        return {"kind": kind, "id": path, "selfLink": link(path), "items": items, **token}

    # operations

    def _start(
        self, where: Where, kind: str, path: str, finish: Callable[[], object], failing: ApiError | None
    ) -> Json:
        self._ids += 1
        name = f"operation-{self._ids}"
        own = f"{where.path}/operations/{name}"
        now = datetime.now(PACIFIC).isoformat(timespec="milliseconds")
        body: Json = {
            "kind": "compute#operation",
            "id": str(self._ids),
            "name": name,
            "operationType": kind,
            "targetLink": link(path),
            "targetId": self.store.get(path, {}).get("id", str(self._ids)),
            "status": "RUNNING",
            "progress": 0,
            "user": "operator@example.com",
            "insertTime": now,
            "startTime": now,
            "selfLink": link(own),
        }
        if where.place != "global":
            body[where.place.split("/")[0][:-1]] = link(where.path)
        # An operation that nobody asks for ends, too: some of the modules do not wait.
        operation = self._operations[own] = Operation(path, body, self.polls, self.polls + 3, finish, failing)
        if self.polls < 0:
            self._finish(operation)
        return dict(operation.body)

    def _operation(self, path: str) -> Json:
        if path not in self._operations:
            raise not_found(path)
        return dict(self._operations[path].body)

    def _tick(self, path: str) -> None:
        for own, operation in self._operations.items():
            if operation.body["status"] == "DONE":
                continue
            operation.polls -= own == path
            operation.others -= own != path
            if operation.polls < 0 or operation.others < 0:
                self._finish(operation)

    def _finish(self, operation: Operation) -> None:
        now = datetime.now(PACIFIC).isoformat(timespec="milliseconds")
        operation.body |= {"status": "DONE", "progress": 100, "endTime": now}
        if operation.error:
            error = {"code": operation.error.reason.upper(), "message": operation.error.message}
            operation.body |= {"error": {"errors": [error]}, "httpErrorStatusCode": operation.error.status}
        else:
            operation.finish()


def merged(current: Json, changes: Mapping[str, Any]) -> Json:
    """JSON merge patch (RFC 7396), which is what a PATCH of this API is: lists are replaced, null removes."""
    new = copy.deepcopy(current)
    for key, value in changes.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict) and isinstance(new.get(key), dict):
            new[key] = merged(new[key], value)
        else:
            new[key] = copy.deepcopy(value)
    return new


# --- filter ---------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"""\s*(\(|\)|(?:AND|OR|NOT)\b|[^\s()=!:<>"']+|!=|=|:|"[^"]*"|'[^']*')""")


def matches(text: str, resource: Json) -> bool:
    """Whether a resource is what a list's `filter` asks for.

    Knows `field = value`, `!=`, `:` (has; `labels.x:*`), the older `eq` and `ne` with expressions, AND, OR, NOT,
    parentheses. What stands side by side is AND, and OR binds closer, as with the API.
    """
    tokens, position = [], 0
    while text[position:].strip():
        found = _TOKEN.match(text, position)
        if not found:
            raise _bad_filter(text)
        tokens.append(found[1])
        position = found.end()
    if not tokens:
        return True
    try:
        result = _all(tokens, resource)
    except (IndexError, re.error):
        raise _bad_filter(text) from None
    if tokens:
        raise _bad_filter(text)
    return result


def _bad_filter(text: str) -> ApiError:
    return ApiError(400, f"Invalid value for field 'filter': '{text}'. Invalid list filter expression.")


def _all(tokens: list[str], resource: Json) -> bool:
    result = True
    while tokens and tokens[0] != ")":
        if tokens[0] == "AND":
            tokens.pop(0)
        one = _one(tokens, resource)
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            one = _one(tokens, resource) or one
        result = one and result
    return result


def _one(tokens: list[str], resource: Json) -> bool:
    first = tokens.pop(0)
    if first == "NOT":
        return not _one(tokens, resource)
    if first == "(":
        result = _all(tokens, resource)
        if tokens.pop(0) != ")":
            raise IndexError
        return result
    compared, value = tokens.pop(0), tokens.pop(0).strip("\"'")
    there = _field(resource, first)
    text = "" if there is None else str(there).lower() if isinstance(there, bool) else str(there)
    if compared in ("eq", "ne"):
        return bool(re.fullmatch(value, text)) is (compared == "eq")
    if compared == ":" and value == "*":
        return there is not None
    if compared == ":":
        return value in there if isinstance(there, list) else value.strip("*") in text
    if compared in ("=", "!="):
        return fnmatch.fnmatchcase(text, value) is (compared == "=")
    raise IndexError


def _field(resource: Json, name: str) -> Any:
    found: Any = resource
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
