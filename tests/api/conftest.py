"""The openai client of the shared server, and servers with other chat templates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from changed_models import with_template
from openai import OpenAI

from offgrid.server import Server


@pytest.fixture(scope="session")
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{base_url}/v1", api_key="not-needed", max_retries=0) as client:
        yield client


@pytest.fixture
def serve_template(
    starter_path: Path, tmp_path: Path, make_server: Callable[..., Server]
) -> Callable[[str], str]:
    """Serve the starter's weights with another chat template; return the URL."""

    def serve(template: str) -> str:
        with_template(starter_path, tmp_path / starter_path.name, template)
        return make_server().url

    return serve
