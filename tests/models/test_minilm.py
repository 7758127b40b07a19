"""A converted sentence transformer gives the vectors that its package computes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from support import request

pytestmark = pytest.mark.models

RECORD = Path(__file__).parents[1] / "golden" / "minilm.json"
"""Made by ``tests/golden/make_minilm.py``."""


def test_vectors_are_those_of_the_package(real_url: str, minilm: Path) -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    body = {"model": minilm.stem, "input": [entry["text"] for entry in record]}
    response = request(real_url, "POST", "/v1/embeddings", body)
    assert response.status == 200, response.body
    found = np.array([item["embedding"] for item in response.json["data"]])
    expected = np.array(
        [np.frombuffer(base64.b64decode(entry["vector"]), "<f2") for entry in record], dtype=float
    )
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert (found * expected).sum(axis=1).min() > 0.999
    # Different texts have different vectors, or this comparison would prove little.
    assert np.median(found @ found.T) < 0.5


def test_tokens_are_those_of_an_input(real_url: str, minilm: Path) -> None:
    body = {"model": minilm.stem, "content": "Hello world", "add_special": True}
    assert request(real_url, "POST", "/tokenize", body).json["tokens"] == [101, 7592, 2088, 102]
