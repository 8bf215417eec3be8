"""One parser and one redaction: all schemes, all awkward characters, all places, all outputs."""

from __future__ import annotations

import itertools
import logging
import re
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.paths import ROOT
from trt_afdet.errors import AfdetError, InvalidValueError
from trt_afdet.stream.addresses import ENCODE, parse_address
from trt_afdet.stream.config.addresses import (
    SINKS,
    SOURCES,
    Scheme,
    listed,
    make_sink,
    make_source,
    parse_source,
)
from trt_afdet.stream.options import (
    join_options,
    read_number,
    read_seconds,
    read_size,
    read_truth,
    read_whole,
    split_options,
)
from trt_afdet.support.redact import redact

SOURCE_FRAGMENT = [name for name, scheme in SOURCES.items() if scheme.peers_query]
AWKWARD = "#@:/?%+&; \"'[]äß日|\\^`{}<>$!*(),=~"
NETWORK_SINKS = [name for name, s in SINKS.items() if "://" in s.example and name != "mjpeg"]
#: Both halves are looked for: what an awkward character cuts off is secret too.
HALVES = ("hUnTe1", "r2SwoRd")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def outputs(make: object, text: str) -> str:
    """Everything that is said of an address: names, reprs, errors, tracebacks."""
    try:
        made = make(text)  # type: ignore[operator]
    except InvalidValueError as error:
        said = "".join(traceback.format_exception(error))
        # The lines of the program itself hold no addresses; arguments would.
        return f"{error} {error!r} {said}"
    shown = [repr(made), str(made), made.name]
    if hasattr(made, "kind"):
        source = make_source(made)
        shown += [repr(source), source.name]
    inner = vars(made).get("_options") if hasattr(made, "__dict__") else None
    if inner is not None:
        shown.append(repr(inner))
    return " ".join(shown)


def addresses(scheme: str, secret: str) -> list[str]:
    """A secret in every place of an address that may hold one."""
    found = [
        f"{scheme}://u:{secret}@host:1234/x",
        f"{scheme}://{secret}@host:1234/x",
        f"{scheme}://{secret}:p@host:1234/x",
        f"{scheme}://u:12{secret}@host:1234/x",
    ]
    if scheme in SOURCE_FRAGMENT:
        found += [
            f"{scheme}://host:1234/x?token={quote(secret, safe='')}",
            f"{scheme}://host:1234/x?a=1&password={quote(secret, safe='')}",
            f"{scheme}://host:1234/x#password={secret}",
            f"{scheme}://host:1234/x#user={secret}",
        ]
    else:
        found.append(f"{scheme}://host:1234/x?token={quote(secret, safe='')}")
    return found


@pytest.mark.parametrize("scheme", [*SOURCE_FRAGMENT, *NETWORK_SINKS])
def test_no_secret_is_shown_whatever_is_in_it(scheme: str, place: Path) -> None:
    for character in AWKWARD:
        for secret in (character.join(HALVES), f"{HALVES[0]}{character}7{character}{HALVES[1]}"):
            for written in (secret, quote(secret, safe="")):
                for text in addresses(scheme, written):
                    makers = []
                    if scheme in SOURCE_FRAGMENT:
                        makers.append(parse_source)
                    if scheme in SINKS:
                        makers.append(make_sink)
                    for make in makers:
                        shown = outputs(make, text)
                        for half in HALVES:
                            assert half not in shown, (make.__name__, text, shown)


@pytest.mark.parametrize("scheme", [*SOURCE_FRAGMENT, *NETWORK_SINKS])
def test_encoded_credentials_arrive_as_they_were_meant(scheme: str) -> None:
    for character in AWKWARD:
        user, password = f"u{character}1", f"p{character}{character}2"
        address = parse_address(
            f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@host:1/x"
        )
        assert (address.user, address.password, address.host) == (user, password, "host")
        again = parse_address(address.url())
        assert (again.user, again.password, again.path) == (user, password, "/x")
        assert address.shown == f"{scheme}://host:1/x"


def test_what_is_not_encoded_is_taken_where_it_has_one_meaning() -> None:
    for password in ("p@w", "p:w", "p%w", "p&w", "p;w", "p+w", "pä'w", "a@b:c"):
        address = parse_address(f"rtsp://u:{password}@host:554/1")
        assert (address.password, address.host, address.port) == (password, "host", 554)
    for password in ("p#w", "p/w", "p?w", "p w"):
        with pytest.raises(InvalidValueError, match=r"%2F|%20") as caught:
            parse_address(f"rtsp://u:{password}@host:554/1")
        # The hint survives its own redaction.
        assert redact(str(caught.value)) == str(caught.value)
    assert redact(ENCODE) == ENCODE


@pytest.mark.parametrize("character", AWKWARD)
def test_values_of_options_are_what_was_written(character: str) -> None:
    value = f"a{character}b"
    written = value.replace("%", "%25").replace("&", "%26")
    spec = parse_source(f"rtsp://host/1#user={quote(value)}&timeout=3s")
    assert (spec.options.user, spec.options.timeout) == (value, 3.0)
    if character != " ":
        spec = parse_source(f"rtsp://host/1#user={written}&timeout=3s")
        assert (spec.options.user, spec.options.timeout) == (value, 3.0)
    values = {"user": value, "yes": True, "n": 3}
    assert dict(split_options(join_options(values))) == {"user": value, "yes": "yes", "n": "3"}


def test_one_set_of_types_for_sources_and_sinks(place: Path) -> None:
    for word, truth in itertools.chain(
        zip(("yes", "on", "true", "1", "TRUE", True), itertools.repeat(True)),
        zip(("no", "off", "false", "0", "Off", False), itertools.repeat(False)),
    ):
        assert read_truth(word) is truth
        assert parse_source("rtsp://h/1", verify=word).options.verify is truth
        if isinstance(word, str):
            assert vars(make_sink(f"video:x?wait={word}"))["durable"] is truth
    for word, seconds in (("5", 5), ("5s", 5), ("10min", 600), ("1.5h", 5400), ("250ms", 0.25)):
        assert read_seconds(word) == seconds
        assert parse_source(f"rtsp://h/1#timeout={word}").options.timeout == seconds
        assert vars(make_sink(f"video:x?segment={word}"))["_segment"] == seconds
    assert [read_size(t) for t in ("5", "2GB", "1.5 MiB", "3kb", 7)] == [
        5, 2e9, 1.5 * 2**20, 3000, 7,
    ]  # fmt: skip
    assert [read_whole(t) for t in ("5", 7, "3.0", "-2")] == [5, 7, 3, -2]
    for read in (read_truth, read_whole, read_number, read_seconds, read_size):
        for wrong in ("", "x", "1 2", "--1", "nan", "inf", "1e999", "٣", None, [], "5 parsecs"):
            with pytest.raises(InvalidValueError, match="must be"):
                read(wrong)


def test_every_scheme_is_known_in_any_case(place: Path) -> None:
    for scheme in SOURCES:
        rest = {"gst": "videotestsrc", "test": "", "file": "/a.mp4", "v4l2": "0", "csi": "0"}
        text = f"://{rest.get(scheme, 'host:1/x')}"
        assert parse_source(scheme.upper() + text).kind == parse_source(scheme + text).kind
    for scheme, kind in SINKS.items():
        text = (
            kind.example.partition(":")[2]
            .replace("HOST:PORT", "127.0.0.1:1")
            .replace("HOST", "host")
        )
        assert make_sink(f"{scheme.upper()}:{text}").name == make_sink(f"{scheme}:{text}").name


def test_settings_of_a_configuration_do_not_print_addresses() -> None:
    from trt_afdet.stream.config.schema import config_from

    loaded = config_from(
        {
            "sources": [{"uri": "rtsp://u:hUnTe1@h/1", "options": {"password": "r2SwoRd"}}],
            "sinks": [{"uri": "mqtt://u:hUnTe1@h/1", "options": {"password_file": "/r2SwoRd"}}],
        }
    )
    for half in HALVES:
        assert half not in repr(loaded)


_PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            ["://", "@", ":", "/", "?", "#", "&", "=", "%", "[", "]", "user", "password", "timeout"]
        ),
        st.text(max_size=8),
    ),
    max_size=12,
).map("".join)
_FUZZ = settings(
    max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@given(st.sampled_from(["", *(f"{s}://" for s in SOURCES)]), _PIECES, st.booleans())
@_FUZZ
def test_any_text_is_a_source_or_a_mistake(scheme: str, rest: str, secret: bool) -> None:
    text = f"{scheme}u:{''.join(HALVES)}{rest}@h/x" if secret and scheme else scheme + rest
    logging.disable(logging.CRITICAL)
    try:
        shown = outputs(parse_source, text)
    except AfdetError as error:  # A missing file, where the text was a path.
        shown = str(error)
    finally:
        logging.disable(logging.NOTSET)
    if secret and scheme.removesuffix("://") in SOURCE_FRAGMENT:
        assert "".join(HALVES) not in shown


@given(st.sampled_from(["", *SINKS]), _PIECES, st.booleans())
@_FUZZ
def test_any_text_is_a_sink_or_a_mistake(scheme: str, rest: str, secret: bool) -> None:
    network = scheme in NETWORK_SINKS
    text = f"{scheme}://u:{''.join(HALVES)}{rest}@h/x" if secret and network else f"{scheme}:{rest}"
    try:
        shown = outputs(make_sink, text)
    except AfdetError as error:  # A file of secrets that is not there.
        shown = str(error)
    if secret and network:
        assert "".join(HALVES) not in shown


DOCS = (ROOT / "docs" / "cameras.md").read_text(encoding="utf-8")


def table(title: str) -> list[list[str]]:
    """The first table below a title of docs/cameras.md, without its head."""
    rows = DOCS.partition(f"\n## {title}\n")[2].partition("\n## ")[0].splitlines()
    start = next(i for i, row in enumerate(rows) if row.startswith("|---"))
    body = itertools.takewhile(lambda row: row.startswith("|"), rows[start + 1 :])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in body]


@pytest.mark.parametrize(("title", "schemes"), [("Sources", SOURCES), ("Sinks", SINKS)])
def test_the_tables_of_the_docs_and_of_help_are_this_one(
    title: str, schemes: dict[str, Scheme]
) -> None:
    told = {name for row in table(title) for name in re.findall(r"`([a-z][a-z0-9+]*):", row[0])}
    assert told == set(schemes)
    for name, scheme in schemes.items():
        assert scheme.what in listed()
        (row,) = [
            row
            for row in table("Options of addresses")
            if f"`{name}`" in row[0] and row[1] == title[:-1].lower()
        ]
        assert re.findall(r"`(\w+)`", row[2]) == list(scheme.options)
