"""``trt-afdet doctor``."""

from __future__ import annotations

import json

import pytest

from trt_afdet import doctor
from trt_afdet.cli import main


def test_it_prints_rows_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "host library" in printed
    assert "fix: " in printed
    assert main(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "Python"
    assert all(row.keys() == {"status", "name", "detail", "fix"} for row in rows)
    assert {row["status"] for row in rows} <= {"ok", "warn"}


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_a_failure_shows_in_the_exit_status(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    code: int,
) -> None:
    row = doctor.Row(status, "Python", "2.7", "use a newer one")
    monkeypatch.setattr(doctor, "examine", lambda: [row])
    assert main(["doctor"]) == code
    assert "fix: use a newer one" in capsys.readouterr().out
