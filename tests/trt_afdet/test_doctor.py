"""The doctor tells what is there, and how to get what is not."""

from __future__ import annotations

import json

import pytest

from trt_afdet import doctor, native
from trt_afdet.cli import main


def rows_by_name() -> dict[str, doctor.Row]:
    return {row.name: row for row in doctor.examine()}


def test_this_machine_can_run_it() -> None:
    rows = rows_by_name()
    assert rows["Python"].status == rows["numpy"].status == rows["cv2"].status == "ok"
    assert not [row for row in rows.values() if row.status == "fail"]
    # Whatever is not fine comes with a way to mend it.
    assert all(row.fix for row in rows.values() if row.status != "ok")


def test_native_parts_say_how_they_were_built() -> None:
    try:
        library = native.host()
    except native.NativeMissingError as error:
        pytest.skip(str(error))
    detail = rows_by_name()["host library"].detail
    assert library.build_info in detail
    assert library.path in detail


def test_a_missing_part_is_a_warning_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise native.NativeMissingError(f"the native library {name} was not found")

    native.host.cache_clear()
    monkeypatch.setattr(native, "find", missing)
    row = rows_by_name()["host library"]
    assert (row.status, row.detail) == ("warn", "the native library afdet_host was not found")
    assert "compiler" in row.fix


def test_a_broken_package_is_reported_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        raise OSError("libGL.so.1: cannot open shared object file\nsecond line")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    rows = rows_by_name()
    assert rows["cv2"].status == "fail"
    assert "libGL.so.1" in rows["cv2"].detail
    assert "second line" not in rows["cv2"].detail
    assert rows["onnx"].status == "warn"
    assert "trt-afdet[onnx]" in rows["onnx"].fix


def test_command_prints_rows_and_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor"]) == 0
    assert "host library" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert names[0] == "Python"

    bad = doctor.Row("fail", "Python", "2.7", "use a newer one")
    monkeypatch.setattr(doctor, "examine", lambda: [bad])
    assert main(["doctor"]) == 1
    assert "fix: use a newer one" in capsys.readouterr().out
