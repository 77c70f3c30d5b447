"""TensorBoard is a view: asked for by a variable, and never able to spoil a run."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from helpers.study import tracking
from tests.store.test_records import make_record


class Writer:
    """Stands in for ``SummaryWriter``."""

    written: dict[str, float] = {}

    def __init__(self, folder: str) -> None:
        self.written["folder"] = folder  # type: ignore[assignment]

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.written[name] = value

    def add_text(self, name: str, text: str) -> None:
        self.written[name] = text  # type: ignore[assignment]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    Writer.written = {}
    return Writer.written


def test_off_by_default(written: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tracking.VARIABLE, raising=False)
    tracking.track(make_record())
    assert written == {}


def test_scores_and_costs_are_shown(
    written: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(tracking.VARIABLE, str(tmp_path))
    tracking.track(make_record())
    assert written["f1/de"] == 0.25 and written["f1/fr"] == 0.5 and written["dev/t"] == 0.5
    assert written["cost/tokens"] == 900 and "em/de" not in written
    assert written["folder"].startswith(str(tmp_path / "t via i"))


def test_a_failure_to_show_is_only_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(tracking.VARIABLE, str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(tracking.log, "propagate", True)
    with caplog.at_level("WARNING"):
        tracking.track(make_record())
    assert "not shown in TensorBoard" in caplog.text
