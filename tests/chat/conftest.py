"""The starter model and its template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from offgrid.chat.template import ChatTemplate
from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.model import Model


@pytest.fixture(scope="module")
def model(starter_path: Path) -> Iterator[Model]:
    model = Model(Load(str(starter_path), ctx_size=64, parallel=1, threads=1))
    yield model
    model.close()


@pytest.fixture(scope="module")
def starter(model: Model) -> ChatTemplate:
    info = model.info
    assert info.chat_template
    return ChatTemplate(info.chat_template, info.bos_text, info.eos_text, info.control_texts)
