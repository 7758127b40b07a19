"""A model of the command's own, which ends with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from offgrid.api.shapes import Json
from offgrid.config import load_settings
from offgrid.inprocess.llm import LLM
from offgrid.inprocess.loading import settings_for
from offgrid.inprocess.stream import Stream
from offgrid.store.catalogue import Catalogue


class Local:
    """A model in a worker process of this command.

    Args:
        model: the name that the user gave; "" for the default model.
        settings: the settings of the command line that concern models, unparsed.
        config: the file of settings, or None.

    Raises:
        OffgridError: there is no such model, or it cannot be loaded.
    """

    def __init__(self, model: str, settings: Mapping[str, Any], config: str | None) -> None:
        self._settings = dict(settings)
        self._config = config
        self._llm = self._load(model)

    def _load(self, model: str) -> LLM:
        # One conversation needs one slot, and each slot takes memory.
        return LLM(model, config=self._config, parallel=1, **self._settings)

    @property
    def where(self) -> str:
        """Where the model is, in words."""
        return "loaded by this command"

    def close(self) -> None:
        """End the worker process."""
        self._llm.close()

    def models(self) -> list[str]:
        """Return the ids of the models that can be loaded."""
        settings = load_settings(self._settings, config_file=self._config)
        return [entry.id for entry in Catalogue(settings).entries()]

    def find(self, name: str) -> str:
        """Load a model in place of the present one; return its id.

        Raises:
            OffgridError: it cannot be loaded; the present one stays.
        """
        if name and name != self._llm.name:
            settings_for(name, self._config, self._settings)  # is there such a model?
            before = self._llm.name
            self._llm.close()  # first, because both may not fit into memory
            try:
                self._llm = self._load(name)
            except BaseException:
                self._llm = self._load(before)
                raise
        return self._llm.name

    def chat(self, body: Json) -> Iterator[Json]:
        """Yield the chunks of an answer. Closing the iterator ends the generation."""
        options = _options(body, "messages")
        return _chunks(self._llm.stream(body["messages"], **options))

    def complete(self, body: Json) -> Iterator[Json]:
        """Yield the chunks of a continuation. Closing the iterator ends the generation."""
        options = _options(body, "prompt")
        return _chunks(self._llm.stream_complete(body["prompt"], **options))


def _options(body: Json, text: str) -> Any:
    return {name: value for name, value in body.items() if name not in (text, "model")}


def _chunks(stream: Stream[Any]) -> Iterator[Json]:
    with stream:
        yield from stream.chunks()
