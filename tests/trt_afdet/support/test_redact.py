"""No credential survives, whatever it is written in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_afdet.support.redact import redact


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rtsp://admin:geheim@10.0.0.5/1", "rtsp://***@10.0.0.5/1"),
        ("rtsp://admin@10.0.0.5/1", "rtsp://***@10.0.0.5/1"),
        # As they are pasted, not encoded.
        ("rtsp://admin:ge/he?im@10.0.0.5/1", "rtsp://***@10.0.0.5/1"),
        ("rtsp://admin:ge@he'im@cam/1", "rtsp://***@cam/1"),
        ("lost rtsp://a:geheim@x/1, http://b:geheim@y/2", "lost rtsp://***@x/1, http://***@y/2"),
        ("rtsp://x/1,rtsp://a:geheim@y/2", "rtsp://x/1,rtsp://***@y/2"),
        ("http://cam/v?token=geheim&fps=5", "http://cam/v?token=***&fps=5"),
        ("http://cam/v?X-Amz-Signature=geheim", "http://cam/v?X-Amz-Signature=***"),
        ("http://cam/v?user=geheim&pwd=geheim", "http://cam/v?user=***&pwd=***"),
        ("rtspsrc user-pw=geheim latency=0", "rtspsrc user-pw=*** latency=0"),
        ("password='geheim mit leer', fps=3", "password=***, fps=3"),
        ('{"password": "geheim", "fps": 3}', '{"password": ***, "fps": 3}'),
        ("Authorization: Basic geheim", "Authorization: Basic ***"),
    ],
)  # fmt: skip
def test_credentials_are_replaced(text: str, wanted: str) -> None:
    assert redact(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "cam 1 at 10:30, someone@example.com",
        "user or password is refused - give them as USER:PASSWORD",
        "wrong password: try again",
        "http://cam/stream?channel=1&subtype=0",
        "/data/clips@home/clip.mp4",
        "the keyboard=yes, monkey: see",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text


_SECRET = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=8)


@given(_SECRET, _SECRET, st.sampled_from(["", "cannot open ", "got '"]))
def test_whatever_the_password_it_goes(user: str, password: str, before: str) -> None:
    # "://" in a password would begin another address.
    if "://" in f"{user}:{password}@" or password in "cannot open got rtsp://***@host/path?x=1":
        return
    assert password not in redact(f"{before}rtsp://{user}:{password}@host/path?x=1")
