"""Names of sources as topics, file names and paths: different ones stay different."""

from __future__ import annotations

import unicodedata
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from trt_afdet.stream.sinks.mqtt import MqttOptions
from trt_afdet.support.slug import LONGEST, slug

NAMES = (
    *(
        "a/b",
        "a_b",
        "a+b",
        "a#b",
        "A_b",
        "a-b",
        "a b",
        " a b",
        "a.b",
        "a\\b",
        "a:b",
        "a%2Fb",
        "a//b",
    ),
    *(
        "",
        " ",
        ".",
        "..",
        "../a",
        "/",
        "#",
        "+",
        "$SYS",
        "-",
        "--",
        "-a",
        "a-",
        "\n",
        "\0",
        "con.aux",
    ),
    *("ß", "ss", "é", unicodedata.normalize("NFD", "é"), "カメラ", "🎥", "\udc80", "{source}"),
    *("x" * LONGEST, "x" * (LONGEST + 1), "x" * 65_536, "/" * 300),
    # What the slug of another name looks like is not free name.
    *(slug("a/b"), slug(slug("a/b")), slug("カメラ"), "0123456789ab", "a-0123456789ab"),
)


def test_no_two_names_share_a_slug() -> None:
    slugs = {name: slug(name) for name in NAMES}
    for first, second in combinations(NAMES, 2):
        assert slugs[first] != slugs[second], (first, second)
    for text in slugs.values():
        assert 0 < len(text) <= LONGEST + 13
        assert all(c.isascii() and (c.isalnum() or c in "-_") for c in text)


def test_plain_names_stay_as_they_are() -> None:
    for name in ("door", "Yard_2", "cam-1", "a_b", "A_b"):
        assert slug(name) == name


def test_topics_differ_where_names_do() -> None:
    options = MqttOptions("host", topic="site/{source}/{type}")
    topics = {options.topic_of({"source": name, "type": "result"}) for name in NAMES}
    assert len(topics) == len(NAMES)
    assert all(topic.count("/") == 2 and not set("+#") & set(topic) for topic in topics)


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(), max_size=80), unique=True, max_size=20))
def test_any_names(names: list[str]) -> None:
    every = {*names, *map(slug, names)}
    assert len({slug(name) for name in every}) == len(every)
