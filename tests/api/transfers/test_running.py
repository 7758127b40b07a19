"""Transfers without a server: an end that goes wrong, and texts for clients."""

from __future__ import annotations

import os
import subprocess
import sys

from offgrid.api.shapes import Json
from offgrid.api.transfers.running import Transfer, Transfers, plain_text
from offgrid.errors import TransferError
from offgrid.store.imports import Outcome


class _Failing(Transfer):
    """Its error cannot be told."""

    kind = "import"
    different = ""

    def copy_models(self) -> list[Outcome]:
        raise TransferError("no room", "disk_full")

    def asked(self) -> Json:
        return {}

    def told(self, text: str) -> str:
        raise UnicodeEncodeError("ascii", text, 0, 1, "a fault")


def test_a_transfer_ends_whatever_goes_wrong() -> None:
    """Else no other could begin until the server is started again."""
    transfers: Transfers[_Failing] = Transfers()
    for _ in range(2):
        transfer = _Failing()
        transfers.begin(transfer)
        assert transfer.thread is not None
        transfer.thread.join()
        made = transfer.snapshot()
        assert made["status"] == "failed"
        assert made["error"]["code"] == "internal"
        assert transfers.running is None


def test_texts_in_any_locale() -> None:
    """The names of models and the messages have letters that a locale may not know."""
    assert plain_text("a\udcffb") == "a\ufffdb"
    program = (
        "from offgrid.api.transfers.running import plain_text\n"
        "assert plain_text('\\xe4\\u4e2d\\udcff') == '\\xe4\\u4e2d\\ufffd'"
    )
    locale = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={**os.environ, **locale}, cwd="/"
    )
