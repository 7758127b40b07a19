"""What the page sends to the history is within the server's limits."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from node_tests import find_node

from offgrid.api.fields.body import parse_object
from offgrid.api.history.request import parse_export

WRITE = Path(__file__).parent / "lib" / "parcels.mjs"


@pytest.mark.slow
def test_coloured_answers_and_wide_letters_are_divided_as_the_server_reads_them() -> None:
    done = subprocess.run([find_node(), str(WRITE)], capture_output=True, check=True)
    bodies = [json.dumps(body, ensure_ascii=False).encode() for body in json.loads(done.stdout)]
    assert max(map(len, bodies)) < 8 << 20
    read = [parse_export(parse_object(body)) for body in bodies]
    conversations = [one for part in read for one in part.conversations]
    messages = [message.id for one in conversations for message in one.messages]
    lengths = {"a": 2, "b": 8, "w": 3}
    assert messages == [f"{name}{n}" for name, length in lengths.items() for n in range(length)]
