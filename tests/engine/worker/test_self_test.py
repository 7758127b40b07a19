"""The check that the installer on a stick runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from offgrid.engine.worker import self_test
from offgrid.engine.worker.llama.errors import LoadError


def test_it_computes_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    self_test.main()
    assert capfd.readouterr() == ("", "")


def test_a_failure_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(self_test, "_STARTER", tmp_path / "missing.gguf")
    with pytest.raises(LoadError, match="not there"):
        self_test.main()
    assert capfd.readouterr() == ("", "")
