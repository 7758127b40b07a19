"""A server that runs already, as commands talk to it over HTTP."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from offgrid.addresses import url as url_of
from offgrid.config import API_KEY, Settings
from offgrid.errors import OffgridError

if TYPE_CHECKING:
    import httpx

    from offgrid.api.shapes import Json

_CONNECT = 2.0
"""Seconds to connect."""
_ASK = 10.0
"""Seconds to answer a question that needs no model."""
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Address to listen on -> address to connect to."""
_UNIX = "unix:"
_DONE = "[DONE]"
NEEDS_KEY = "invalid_api_key"
"""Code of the error of a server that needs a key, or another one."""
_GIVE_KEY = f"give a key with {API_KEY} or --api-key"


class ServerError(OffgridError):
    """The server refuses a request, or does not answer as a server of the API does.

    ``code`` is that of the API's error, or None.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class NoServer(ServerError):
    """Nothing answers at this address."""


def server_url(settings: Settings) -> str | None:
    """Return the address of the server that these settings start; None if it is not known."""
    if settings.socket:
        known = not settings.socket.startswith("fd:")
        return f"{_UNIX}{Path(settings.socket).expanduser().absolute()}" if known else None
    if settings.port == 0:
        return None
    host = _ANY.get(settings.host, settings.host)
    return url_of("http" if settings.tls_cert is None else "https", host, settings.port)


def known_server(
    settings: Settings, api_key: str | None = None, ca: str | None = None
) -> Remote | None:
    """Return the server that these settings start; None if its address is not known.

    Args:
        settings: the settings.
        api_key: the key that requests send, or None.
        ca: a PEM file with certificates to trust; by default that of the server itself.

    Raises:
        ServerError: as :class:`Remote`.
    """
    address = server_url(settings)
    own = None if settings.tls_cert is None else str(settings.tls_cert)
    return None if address is None else Remote(address, api_key, ca or own)


class Remote:
    """A server.

    Args:
        url: its address, with or without ``/v1``; or ``unix:`` and the path of a Unix socket.
        api_key: the key that requests send, or None.
        ca: a PEM file with certificates to trust, in addition to those of the system.

    Raises:
        ServerError: this is no address of HTTP, or no key, or the file has no certificates.
    """

    def __init__(self, url: str, api_key: str | None = None, ca: str | None = None) -> None:
        # Only this command needs it, and a server that starts imports every command.
        import httpx

        self.url = url.rstrip("/").removesuffix("/v1")
        base, transport = self.url, None
        if url.startswith(_UNIX):
            base, transport = "http://localhost", httpx.HTTPTransport(uds=url.removeprefix(_UNIX))
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ServerError(f"{url} is not an address; give one like http://127.0.0.1:11611")
        self._client = httpx.Client(
            base_url=base,
            headers={"Authorization": f"Bearer {_sendable(api_key)}"} if api_key else {},
            timeout=httpx.Timeout(_ASK, connect=_CONNECT),
            # A proxy of the environment is for the network, and a server here is not in it.
            trust_env=False,
            transport=transport,
            verify=_trusted(ca) if parts.scheme == "https" else True,
        )
        self._errors: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.InvalidURL)
        self._timeout = httpx.Timeout(None, connect=_CONNECT)

    @property
    def where(self) -> str:
        """Where its models are, in words."""
        return f"the server at {self.url}"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str) -> Any:
        """Return the JSON at a path.

        Raises:
            NoServer: nothing answers.
            ServerError: it refuses the request, or answers with something else.
        """
        try:
            response = self._client.get(path)
        except self._errors as ex:
            raise self._not_there(ex) from None
        return self._json(response)

    def send(self, method: str, path: str, body: Json | None = None, seconds: float = _ASK) -> Any:
        """Send a request that changes something; return the JSON of the response.

        Args:
            method: such as ``POST``.
            path: the path.
            body: the object to send; None for no body.
            seconds: how long the server may take.

        Raises:
            NoServer: nothing answers.
            ServerError: it refuses the request, or answers with something else.
        """
        import httpx

        timeout = httpx.Timeout(seconds, connect=_CONNECT)
        try:
            response = self._client.request(method, path, json=body, timeout=timeout)
        except self._errors as ex:
            raise self._not_there(ex) from None
        return self._json(response)

    def own(self, path: str, sign: Callable[[Json], bool]) -> Json:
        """Return the object at a path that only OffGrid serves.

        Args:
            path: the path.
            sign: whether an object is one that OffGrid sends.

        Raises:
            NoServer, ServerError: see :meth:`get`. Or the server is older, or is no OffGrid server.
        """
        try:
            answer = self.get(path)
        except ServerError as ex:
            if ex.code == "unknown_url":
                raise ServerError(f"{self.where} is older and does not say it") from None
            raise
        if not isinstance(answer, dict) or not sign(answer):
            raise ServerError(f"{self.where} is no OffGrid server")
        return answer

    def models(self) -> list[str]:
        """Return the ids of its models."""
        return [str(model["id"]) for model in self._listed(self.get("/v1/models"))]

    def _listed(self, answer: Any) -> list[Json]:
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list):
            raise ServerError(f"{self.url} is not a server of models: its list has no data")
        return data

    def find(self, name: str) -> str:
        """Return the id of the model that a name means; "" stands for the default model.

        Raises:
            ServerError: it has no such model.
        """
        if not name:
            return ""
        return str(self.get(f"/v1/models/{quote(name, safe='')}").get("id", name))

    def chat(self, body: Json) -> Iterator[Json]:
        """Yield the chunks of an answer. Closing the iterator ends the generation."""
        return self._stream("/v1/chat/completions", body)

    def complete(self, body: Json) -> Iterator[Json]:
        """Yield the chunks of a continuation. Closing the iterator ends the generation."""
        return self._stream("/v1/completions", body)

    def _stream(self, path: str, body: Json) -> Iterator[Json]:
        return self.events(path, {**body, "stream_options": {"include_usage": True}})

    def events(self, path: str, body: Json) -> Iterator[Json]:
        """Yield the events of an answer that streams. Closing the iterator tells the server that
        no one listens any more.

        Raises:
            NoServer, ServerError: see :meth:`get`. Or the server ends before the stream does.
        """
        body = {**body, "stream": True}
        try:
            # A model that must be loaded first may take minutes.
            with self._client.stream("POST", path, json=body, timeout=self._timeout) as response:
                if response.status_code != 200:
                    response.read()
                    self._json(response)
                    raise ServerError(f"{self.url} answers {response.status_code}")
                yield from self._chunks(response)
        except self._errors as ex:
            raise self._not_there(ex) from None

    def _chunks(self, response: httpx.Response) -> Iterator[Json]:
        for line in response.iter_lines():
            name, _, data = line.partition(":")
            if name != "data":
                continue
            if data.strip() == _DONE:
                return
            try:
                chunk = json.loads(data)
            except ValueError:
                raise ServerError(f"{self.url} sends a stream that is not JSON") from None
            if "error" in chunk:
                raise _error(chunk, "the answer failed")
            yield chunk
        raise ServerError("the server ended before its answer did")

    def _json(self, response: httpx.Response) -> Any:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.status_code >= 400:
            raise _error(answer, f"{self.url} answers {response.status_code}")
        if answer is None:
            raise ServerError(f"{self.url} is not a server of models: its answer is not JSON")
        return answer

    def _not_there(self, ex: Exception) -> ServerError:
        import httpx

        if "CERTIFICATE_VERIFY_FAILED" in str(ex):
            return ServerError(
                f"the certificate of {self.url} is not trusted ({ex}); name the file of its issuer "
                "with --ca, and use a host name that the certificate has"
            )
        if isinstance(ex, (httpx.ConnectError, httpx.ConnectTimeout)):
            return NoServer(f"no server answers at {self.url}; start one with offgrid serve")
        if isinstance(ex, httpx.TimeoutException):
            return ServerError(f"the server at {self.url} does not answer in time")
        return ServerError(f"the connection to {self.url} failed: {ex}")


def _trusted(ca: str | None) -> ssl.SSLContext:
    """Return the trust of the system, and that in the certificates of a file."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as ex:  # also an SSLError
            why = "no certificates (PEM) in it" if isinstance(ex, ssl.SSLError) else ex.strerror
            raise ServerError(f"cannot use the certificates in {ca}: {why}") from None
    return context


def _error(answer: Any, otherwise: str) -> ServerError:
    """Return the error that an answer of the API describes."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):  # other servers send a text
        return ServerError(error if isinstance(error, str) else otherwise)
    message, code = str(error.get("message") or otherwise), error.get("code")
    if code == NEEDS_KEY:
        message = f"{message.partition('. ')[0].rstrip('.')}; {_GIVE_KEY}"
    return ServerError(message, code)


def _sendable(api_key: str) -> str:
    """Return a key that can be a header."""
    if not api_key.isascii() or not api_key.isprintable():
        raise ServerError(f"this is not a key; {_GIVE_KEY}")
    return api_key
