"""``trt-afdet doctor``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trt_afdet import doctor
from trt_afdet.cli import main


def test_it_prints_rows_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--for", "detect"]) == 0
    printed = capsys.readouterr().out
    assert "host library" in printed
    assert printed.splitlines()[-1] == "nothing to fix, for: detect"
    assert main(["doctor", "--json", "--for", "detect"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "Python"
    assert all(row.keys() == {"status", "name", "detail", "fix", "uses"} for row in rows)
    assert {row["status"] for row in rows} <= {"ok", "not needed"}


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("not needed", 0), ("fix", 1)])
def test_only_what_is_to_be_fixed_shows_in_the_exit_status(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    code: int,
) -> None:
    asked: list[Any] = []

    def examine(uses: Any) -> list[doctor.Row]:
        asked.append(uses)
        return [doctor.Row(status, "Python", "2.7", "use a newer one")]

    monkeypatch.setattr(doctor, "examine", examine)
    assert main(["doctor", "--for", "web", "--for", "run"]) == code
    assert asked == [("web", "run")]
    assert ("fix: use a newer one" in capsys.readouterr().out) == (status == "fix")


def test_an_unknown_use_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--for", "gaming"]) == 2
    assert "build-engine" in capsys.readouterr().err
