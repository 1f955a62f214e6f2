"""A fake of Google's Compute API, for tests that run the real modules and the real inventory plugin.

    with served(tmp_path) as api:
        subprocess.run([...], env=api.environment)
        assert not api.writes

`resources` says how a collection is added, `server` how clients are led here. The unit tests have one as the fixture
`compute_api`. A test lets things go wrong with `api.fail(...)` and `api.deny(...)`, and counts with `api.requests`.
"""

from compute_api.resources import Api, ApiError, Collection, Where, link, path_of
from compute_api.server import served, service_account

__all__ = ["Api", "ApiError", "Collection", "Where", "link", "path_of", "served", "service_account"]
