"""A server that runs already, as commands talk to it over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from offgrid.config import Settings
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
_DONE = "[DONE]"


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
    if settings.port == 0:
        return None
    host = _ANY.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


class Remote:
    """A server.

    Args:
        url: its address, with or without ``/v1``.

    Raises:
        ServerError: this is no address of HTTP.
    """

    def __init__(self, url: str) -> None:
        # Only this command needs it, and a server that starts imports every command.
        import httpx

        self.url = url.rstrip("/").removesuffix("/v1")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ServerError(f"{url} is not an address; give one like http://127.0.0.1:11611")
        timeout = httpx.Timeout(_ASK, connect=_CONNECT)
        # A proxy of the environment is for the network, and a server here is not in it.
        self._client = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)
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
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
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

        if isinstance(ex, (httpx.ConnectError, httpx.ConnectTimeout)):
            return NoServer(f"no server answers at {self.url}; start one with offgrid serve")
        if isinstance(ex, httpx.TimeoutException):
            return ServerError(f"the server at {self.url} does not answer in time")
        return ServerError(f"the connection to {self.url} failed: {ex}")


def _error(answer: Any, otherwise: str) -> ServerError:
    """Return the error that an answer of the API describes."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):  # other servers send a text
        return ServerError(error if isinstance(error, str) else otherwise)
    return ServerError(str(error.get("message") or otherwise), error.get("code"))
