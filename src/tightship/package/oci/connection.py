"""A connection to one repository: the ORAS client's requests and authentication, within the limits of `transport`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from tightship.core import extras
from tightship.errors import RegistryError
from tightship.package import strict_json
from tightship.package.oci.access import Access
from tightship.package.oci.reference import Reference

if TYPE_CHECKING:
    from tightship.package.oci.transport import GuardedSession, Response

__all__ = ["Connection"]

MAX_HOPS = 5
PAUSES_S = (0.5, 2.0)
"""Before a request that changes nothing is tried again."""

REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (429, 502, 503, 504)


class Connection:
    """Requests to one repository; `send` authenticates as the registry asks, and tells the credentials to it alone."""

    def __init__(self, reference: Reference, access: Access) -> None:
        extras.check("oras", "sharing packages through a registry")
        plain = access.insecure or (reference.is_loopback and access.ca is None)
        self.reference = reference
        self.base = f"{'http' if plain else 'https'}://{reference.host}"
        self._client = _client(reference, access, plain)
        self._session: GuardedSession = self._client.session
        self._authenticate(access)

    def url(self, *parts: str) -> str:
        """The address of a manifest, a blob or an upload of the repository."""
        return "/".join((f"{self.base}/v2/{self.reference.repository}", *parts))

    def get(self, url: str, headers: Mapping[str, str] | None = None, stream: bool = False) -> Response:
        """GET, following redirects one by one; tried again where the registry is busy or the connection fails."""
        for pause in (*PAUSES_S, None):
            try:
                response = self._follow(url, headers or {}, stream)
            except RegistryError as error:
                if pause is None or not _may_pass(error):
                    raise
            else:
                if pause is None or response.status_code not in BUSY:
                    return response
                response.close()
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def send(
        self,
        method: str,
        url: str,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        patience_s: float = 0.0,
    ) -> Response:
        """One request to the registry itself; `patience_s` allows a longer wait for the answer."""
        from tightship.package.oci.transport import ANSWER_S, origin

        if origin(url) != origin(self.base):
            raise RegistryError(f"{self.reference}: the registry names another host ({_told(url)}); refused")
        self._session.patience_s = max(ANSWER_S, patience_s)
        return self._asked(lambda: self._authorised(method, url, data, dict(headers or {}), stream))

    def location(self, response: Response) -> str:
        """Where the registry says that an upload goes on."""
        found = response.headers.get("Location", "")
        if not found:
            raise RegistryError(f"{self.reference}: the registry began an upload and did not say where it goes on")
        return _joined(response.url, found)

    def refusal(self, response: Response, doing: str) -> RegistryError:
        """The error for an answer that is no success, in the registry's own words as far as they are fit to print."""
        status = response.status_code
        hint = {
            401: "; give --username and --password-file, or log in with `docker login`",
            403: "; give credentials that are allowed to do this",
            404: "; check the repository, the tag and the digest",
        }.get(status, "")
        return RegistryError(f"{self.reference}: {doing}: the registry answers {status}{_reason(response)}{hint}")

    def _follow(self, url: str, headers: Mapping[str, str], stream: bool) -> Response:
        from tightship.package.oci.transport import origin

        for _ in range(MAX_HOPS):
            if origin(url) == origin(self.base):
                response = self.send("GET", url, headers=headers, stream=stream)
            else:
                response = self._elsewhere(url, headers, stream)
            if response.status_code not in REDIRECTS:
                return response
            response.close()
            url = _joined(url, response.headers.get("Location", ""))
        raise RegistryError(f"{self.reference}: more than {MAX_HOPS} redirects, at last to {_told(url)}; refused")

    def _elsewhere(self, url: str, headers: Mapping[str, str], stream: bool) -> Response:
        """GET from a host that the registry redirects to, without credentials."""
        verify = self._client._tls_verify
        return self._asked(lambda: self._session.get(url, headers=dict(headers), stream=stream, verify=verify))

    def _authorised(self, method: str, url: str, data: Any, headers: dict[str, str], stream: bool) -> Response:
        """The ORAS client's own request without its retries, which wait for minutes and hide what went wrong."""
        headers.update(self._always())
        response = self._ask(method, url, data, headers, stream)
        if response.status_code == 401 and getattr(self._client.auth, "token", None):
            self._client.auth.token = None  # it was for less than this, or is too old: ask for another one
            response = self._ask(method, url, data, headers, stream)
        return response

    def _ask(self, method: str, url: str, data: Any, headers: dict[str, str], stream: bool) -> Response:
        self._session.forget_refusal()
        ask = type(self._client).do_request.__wrapped__
        try:
            response: Response = ask(self._client, url, method, data=data, headers=dict(headers), stream=stream)
        except ValueError:  # the client knows no answer to the refusal; what the registry said is what helps
            refused = self._session.refused
            if refused is None or refused.url != url:
                raise
            return refused
        return response

    def _always(self) -> dict[str, str]:
        """Basic credentials go with every request, so that no body has to be sent twice."""
        return self._client.auth.get_auth_header() if _is_basic(self._client) else {}

    def _authenticate(self, access: Access) -> None:
        """Learn from `/v2/` how the registry authenticates, and load the credentials for it."""
        import oras.auth

        answer = self._asked(lambda: self._session.get(f"{self.base}/v2/", verify=self._client._tls_verify))
        if answer.status_code not in (200, 401, 403):
            tls = "" if self.base.startswith("https") else "; if it speaks TLS, give --ca FILE"
            raise RegistryError(
                f"{self.reference}: {self.base}/v2/ answers {answer.status_code}{_reason(answer)}; "
                f"expected a registry of the OCI distribution API there{tls}"
            )
        if answer.headers.get("WWW-Authenticate", "").lower().startswith("basic"):
            self._client.auth = oras.auth.get_auth_backend(
                "basic", self._session, self.base.startswith("http:"), tls_verify=self._client._tls_verify
            )
        self._load_credentials(access)

    def _load_credentials(self, access: Access) -> None:
        import oras.container

        if access.username:
            self._client.auth.set_basic_auth(access.username, access.password)
        else:
            container = oras.container.Container(self.reference.repository, registry=self.reference.host)
            try:
                self._client.auth.load_configs(container)
            except Exception as error:  # a docker config may hold anything
                raise RegistryError(f"~/.docker/config.json cannot be used: {type(error).__name__}: {error}") from error
        if _is_basic(self._client) and not getattr(self._client.auth, "_basic_auth", None):
            raise RegistryError(
                f"{self.reference}: the registry wants a user name and a password; give --username and "
                "--password-file, or log in with `docker login`"
            )

    def _asked(self, request: Callable[[], Response]) -> Response:
        import requests

        try:
            return request()
        except RegistryError:
            raise
        except requests.exceptions.SSLError as error:
            raise RegistryError(
                f"{self.reference}: no TLS connection that can be trusted: {_cause(error)}; give --ca FILE for a "
                "registry with an authority of its own, --insecure for one without TLS"
            ) from error
        except (requests.RequestException, OSError) as error:
            raise RegistryError(f"{self.reference}: the registry cannot be reached: {_cause(error)}") from error
        except Exception as error:  # what a registry answers to the ORAS client's authentication may be anything
            raise RegistryError(f"{self.reference}: cannot authenticate: {_cause(error)}") from error


def _client(reference: Reference, access: Access, plain: bool) -> Any:
    import oras.logger
    import oras.provider

    from tightship.package.oci.transport import GuardedSession

    oras.logger.setup_logger(quiet=True)
    verify: bool | str = True if access.ca is None else str(Path(access.ca).resolve())
    client = oras.provider.Registry(reference.host, insecure=plain, tls_verify=verify, auth_backend="token")
    cookies = client.session.cookies
    client.session = client.auth.session = GuardedSession(reference.host_name if plain else "")
    client.session.cookies = cookies  # oras refuses them all: some registries take a cookie for a browser
    client.session.trust_env = not reference.is_loopback  # no proxy leads to this machine
    return client


def _may_pass(error: RegistryError) -> bool:
    """Whether the network failed, not the registry or its certificate."""
    import requests

    cause = error.__cause__
    return isinstance(cause, requests.ConnectionError | requests.Timeout) and not isinstance(
        cause, requests.exceptions.SSLError
    )


def _is_basic(client: Any) -> bool:
    import oras.auth

    return isinstance(client.auth, oras.auth.BasicAuth)


def _reason(response: Response) -> str:
    """What the registry gives as the reason, in one short line that can do nothing to a terminal."""
    try:
        first = strict_json.load(response.content)["errors"][0]
        words = f"{first['code']}: {first.get('message', '')}"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        words = str(response.reason or "")
    plain = "".join(letter for letter in words if letter.isprintable())[:200]
    return f" ({plain})" if plain else ""


def _cause(error: BaseException) -> str:
    """The innermost reason: requests and urllib3 wrap it in three layers of names."""
    seen = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    text = "".join(letter for letter in str(seen) if letter.isprintable())
    return (text or type(seen).__name__)[:200]


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise RegistryError(f"{_told(url)}: the registry points to what is no address: {location[:80]!r}") from error


def _told(url: str) -> str:
    return "".join(letter for letter in url.partition("?")[0] if letter.isprintable())[:100]
