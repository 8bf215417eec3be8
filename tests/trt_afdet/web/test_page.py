"""The page in a real browser: pictures with boxes, zones drawn by hand, a phone."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from tests.trt_afdet.web.proxy_rig import nginx
from tests.trt_afdet.web.web_rig import camera, dead, serving, wait_for
from trt_afdet.draw import class_color
from trt_afdet.web.server import WebServer
from trt_afdet.web.zones_store import ZonesStore

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

for program in ("chromium", "chromedriver"):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: make peers", allow_module_level=True)

TOKEN = "correct-horse-battery"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --window-size=1440,1000"
)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
#: Cameras of the rig are 320 x 240 and their squares bright on a dark ground.
PLANS = ("yard", "a/b ünï")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('browser')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    driver.set_script_timeout(30)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    zones = ZonesStore(tmp_path / "zones.json")
    plans = [camera(PLANS[0], every=25), camera(PLANS[1], "seed=7"), dead()]
    with serving(plans, zones=zones) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_to_complain_about(browser: Chrome) -> Iterator[None]:
    """No error and no violation of the content policy on the browser's console."""
    browser.get_log("browser")
    yield
    complaints = console(browser)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    browser.get("about:blank")
    assert complaints == []


def console(browser: Chrome) -> list[str]:
    """What the browser has complained about since it was last asked."""
    return [
        entry["message"]
        for entry in browser.get_log("browser")
        # That one is about the tests, which read pixels.
        if entry["level"] != "INFO" and "willReadFrequently" not in entry["message"]
    ]


def one(browser: Chrome, selector: str) -> WebElement:
    """The element that a CSS selector names, as soon as it can be seen."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By

    def seen() -> WebElement | None:
        found = browser.find_elements(By.CSS_SELECTOR, selector)
        with suppress(StaleElementReferenceException):  # Another page came in between.
            return found[0] if found and found[0].is_displayed() else None
        return None

    element: WebElement = wait_for(seen, selector)
    return element


def card(name: str) -> str:
    return f'.card[data-camera="{name}"]'


def screen(element: Any) -> np.ndarray[Any, Any]:
    """What an element looks like, BGR uint8 [H, W, 3]."""
    data = np.frombuffer(io.BytesIO(element.screenshot_as_png).getvalue(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image is not None
    return image


def pixels_of(image: np.ndarray[Any, Any], color: tuple[int, int, int], near: int = 6) -> int:
    return int((np.abs(image.astype(int) - color).max(axis=2) <= near).sum())


def has_picture(browser: Chrome, selector: str) -> bool:
    """Whether a camera's canvas shows more than nothing."""
    return bool(
        browser.execute_script(
            """const c = document.querySelector(arguments[0] + " canvas.picture");
            if (!c || !c.width) return false;
            const d = c.getContext("2d").getImageData(c.width / 2, c.height / 2, 1, 1).data;
            return d[3] > 0;""",
            selector,
        )
    )


def no_sideways_scrolling(browser: Chrome) -> bool:
    return bool(
        browser.execute_script(
            "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
    )


def click_in(browser: Chrome, element: WebElement, *points: tuple[float, float]) -> None:
    """Clicks at shares of an element's width and height."""
    from selenium.webdriver import ActionChains

    for x, y in points:
        right = round((x - 0.5) * element.size["width"])
        down = round((y - 0.5) * element.size["height"])
        ActionChains(browser, 20).move_to_element_with_offset(
            element, right, down
        ).click().perform()


def rename(browser: Chrome, old: str, new: str) -> None:
    box = one(browser, f'.shape[data-name="{old}"] input')
    box.clear()
    box.send_keys(new)


def test_pictures_have_the_true_boxes_on_them(browser: Chrome, server: WebServer) -> None:
    browser.get(server.url)
    for name in PLANS:
        wait_for(lambda name=name: has_picture(browser, card(name)), f"a picture of {name}")  # type: ignore[misc]
        view = one(browser, card(name) + " .view")
        image = screen(view)
        for class_id in range(3):
            # A box of at least 19 of 240 pixels' height, two thick, and its label.
            assert pixels_of(image, class_color(class_id)) > 100, (name, class_id)
    # Class 0's box lies around a square: the frame drawn is where the pattern's true box is.
    found = browser.execute_script(
        """const name = arguments[0];
        const view = document.querySelector(`.card[data-camera="${name}"] .view`);
        const [p, o] = view.querySelectorAll("canvas");
        return [p.toDataURL(), o.toDataURL()];""",
        PLANS[0],
    )
    picture, over = (decode(url) for url in found)
    orange = over[..., 3] > 0
    orange &= np.abs(over[..., :3].astype(int) - class_color(0)).max(axis=2) <= 6
    ys, xs = np.nonzero(orange)
    inside = picture[(ys.max() - 6), xs.min() + 6, :3]
    outside = picture[min(ys.max() + 8, len(picture) - 1), xs.min() + 6, :3]
    assert inside.max() >= 110, inside
    assert (outside.max() <= 100) or ys.max() + 8 >= len(picture)
    title = wait_for(lambda: "2/3 live" in browser.title and browser.title, "the title")
    assert "trt-afdet" in title


def decode(url: str) -> np.ndarray[Any, Any]:
    import base64

    data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def test_figures_states_and_events_are_shown(browser: Chrome, server: WebServer) -> None:
    browser.get(server.url)
    wait_for(lambda: "fps" in one(browser, card("yard") + " .rate").text, "frames per second")
    assert "1 of 3 away" in wait_for(lambda: one(browser, "#health").text, "health")
    gone = one(browser, card("dead") + " .notice").text
    assert "no answer from rtsp://***@10.1.2.3" in gone
    assert "ms" in one(browser, card("yard") + " .stats").text
    wait_for(lambda: "person #7 entered door" in one(browser, "#events").text, "a zone's event")
    assert "person #7 crossed gate in" in one(browser, "#events").text
    assert "dead was lost" in one(browser, "#events").text
    one(browser, '#filter [data-kind="cameras"]').click()
    wait_for(lambda: "entered" not in one(browser, "#events").text, "the filter")
    source = browser.page_source
    assert not [secret for secret in ("hunter2", "swordfish", "admin") if secret in source]

    def drawn() -> bool:
        return bool(
            browser.execute_script(
                """const c = document.querySelector(arguments[0] + " .chart canvas");
                return c.width && c.getContext("2d").getImageData(0, 0, c.width, c.height)
                  .data.some((v, i) => i % 4 === 3 && v);""",
                card("yard"),
            )
        )

    wait_for(drawn, "the chart's first line")


def test_zones_are_drawn_with_the_mouse_and_kept(browser: Chrome, server: WebServer) -> None:
    told: list[str] = []
    server.zones.on_zones = lambda source, zones: told.append(source)
    browser.get(server.url)
    one(browser, card("a/b ünï")).click()
    wait_for(lambda: has_picture(browser, "#stage"), "the camera's picture")
    assert one(browser, "#focus-name").text == "a/b ünï"
    one(browser, "#edit").click()
    one(browser, "#draw-zone").click()
    view = one(browser, "#stage .draw")
    click_in(browser, view, (0.2, 0.3), (0.6, 0.25), (0.7, 0.8))
    assert one(browser, "#finish").is_enabled()
    click_in(browser, view, (0.25, 0.85), (0.2, 0.3))  # Back at the first corner: closed.
    rename(browser, "zone 1", "parking")
    one(browser, "#draw-line").click()
    click_in(browser, view, (0.8, 0.1), (0.8, 0.9))
    one(browser, "#draw-zone").click()
    click_in(browser, view, (0.05, 0.05), (0.15, 0.05), (0.1, 0.15))
    one(browser, "#finish").click()
    one(browser, '.shape[data-name="zone 1"] button').click()
    assert server.zones.all() == {}
    one(browser, "#save").click()
    wait_for(lambda: server.zones.all(), "the zones to be saved")
    assert told == ["a/b ünï"]
    browser.get(server.url + "#/")
    wait_for(lambda: one(browser, card("yard")), "all cameras")
    one(browser, card("a/b ünï")).click()
    assert server.broadcaster.served == 1  # All over one connection.
    path = server.zones.path
    assert path is not None
    saved = json.loads(path.read_text())["a/b ünï"]
    (zone,), (line,) = saved["zones"], saved["lines"]
    assert zone["name"] == "parking"
    expected = [[0.2, 0.3], [0.6, 0.25], [0.7, 0.8], [0.25, 0.85]]
    assert np.allclose(zone["polygon"], expected, atol=0.01)
    assert line["name"] == "line 1"
    assert np.allclose(line["points"], [[0.8, 0.1], [0.8, 0.9]], atol=0.01)
    browser.refresh()
    wait_for(lambda: "parking" in one(browser, "#shapes").text, "the zone after a reload")
    wait_for(lambda: has_picture(browser, "#stage"), "the picture after a reload")
    over = decode(
        browser.execute_script("return document.querySelector('#stage .draw').toDataURL()")
    )
    tall, wide = over.shape[:2]
    # Inside the zone the picture is tinted, outside it is not.
    assert over[round(0.32 * tall), round(0.28 * wide), 3] > 0
    assert over[round(0.03 * tall), round(0.97 * wide), 3] == 0


def test_a_corner_is_dragged_and_changes_can_be_discarded(
    browser: Chrome, server: WebServer
) -> None:
    from selenium.webdriver import ActionChains

    square = {"name": "door", "polygon": [[0.3, 0.3], [0.7, 0.3], [0.7, 0.7], [0.3, 0.7]]}
    browser.get(server.url + "#/camera/yard")
    wait_for(lambda: has_picture(browser, "#stage"), "the camera's picture")
    server.zones.put("yard", {"zones": [square]})
    wait_for(lambda: "door" in one(browser, "#shapes").text, "a zone saved by someone else")
    one(browser, "#edit").click()
    view = one(browser, "#stage .draw")
    wide, tall = view.size["width"], view.size["height"]

    def drag() -> None:
        chain = ActionChains(browser, 20)
        chain.move_to_element_with_offset(view, round(0.2 * wide), round(0.2 * tall))
        chain.click_and_hold().move_by_offset(round(0.1 * wide), round(0.1 * tall)).release()
        chain.perform()

    drag()
    one(browser, "#discard").click()
    one(browser, "#edit").click()
    assert not one(browser, "#save").is_enabled()
    drag()
    one(browser, "#save").click()
    wait_for(lambda: server.zones.get("yard")["zones"][0] != square, "the change")
    corners = server.zones.get("yard")["zones"][0]["polygon"]
    assert np.allclose(corners, [[0.3, 0.3], [0.7, 0.3], [0.8, 0.8], [0.3, 0.7]], atol=0.01)


def test_what_the_server_refuses_is_said(browser: Chrome, server: WebServer) -> None:
    browser.get(server.url + "#/camera/yard")
    wait_for(lambda: has_picture(browser, "#stage"), "the camera's picture")
    one(browser, "#edit").click()
    one(browser, "#draw-zone").click()
    click_in(browser, one(browser, "#stage .draw"), (0.2, 0.2), (0.8, 0.7), (0.8, 0.2), (0.2, 0.8))
    one(browser, "#finish").click()
    one(browser, "#save").click()
    assert "zone zone 1: its sides cross" in one(browser, ".toast.bad").text
    assert server.zones.all() == {}
    one(browser, "#discard").click()
    # The browser itself notes every answer of 422.
    log = console(browser)
    assert len([m for m in log if "422" in m]) == len(log) == 1


def test_a_phone_shows_it_all_without_scrolling_sideways(
    browser: Chrome, server: WebServer
) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    browser.get(server.url)
    wait_for(lambda: has_picture(browser, card("yard")), "a picture")
    wait_for(lambda: "entered" in one(browser, "#events").text, "an event")
    assert no_sideways_scrolling(browser)
    wide = one(browser, card("yard")).size["width"]
    assert wide > 340
    browser.get(server.url + "#/camera/yard")
    wait_for(lambda: has_picture(browser, "#stage"), "the camera's picture")
    assert no_sideways_scrolling(browser)
    one(browser, "#edit").click()
    one(browser, "#draw-zone").click()
    area = browser.execute_script(
        """const r = document.querySelector("#stage .draw").getBoundingClientRect();
        return [r.x, r.y, r.width, r.height];"""
    )
    for x, y in ((0.3, 0.3), (0.7, 0.3), (0.5, 0.7)):
        place = {"x": area[0] + x * area[2], "y": area[1] + y * area[3]}
        for kind, points in (("touchStart", [place]), ("touchEnd", [])):
            browser.execute_cdp_cmd(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
            )
    one(browser, "#finish").click()
    one(browser, "#save").click()
    wait_for(lambda: server.zones.all(), "the zone drawn with a finger")
    corners = server.zones.get("yard")["zones"][0]["polygon"]
    assert np.allclose(corners, [[0.3, 0.3], [0.7, 0.3], [0.5, 0.7]], atol=0.01)
    assert no_sideways_scrolling(browser)


def test_the_form_lets_one_in(browser: Chrome) -> None:
    with serving([camera("yard")], token=TOKEN) as server:
        browser.get(server.url)
        assert browser.current_url.endswith("/login")
        one(browser, "#token").send_keys("wrong-wrong-wrong")
        one(browser, "button").click()
        text = "return document.querySelector('#wrong')?.innerText ?? ''"
        wait_for(lambda: "not the token" in browser.execute_script(text), "the refusal")
        one(browser, "#token").send_keys(TOKEN)
        one(browser, "button").click()
        wait_for(lambda: has_picture(browser, card("yard")), "a picture")
        assert browser.current_url == server.url
        cookie = browser.get_cookie(server.access.cookie)
        assert cookie is not None
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert TOKEN not in json.dumps(browser.get_cookies())
        browser.delete_all_cookies()
        browser.get(f"{server.url}?token={TOKEN}")
        wait_for(lambda: has_picture(browser, card("yard")), "a picture")
        assert "token" not in browser.current_url
    # The browser itself notes the wrong token's 401.
    log = [message for message in console(browser) if "WebSocket" not in message]
    assert len([m for m in log if "401" in m]) == len(log) == 1


def test_everything_works_behind_nginx(browser: Chrome, tmp_path: Path) -> None:
    """Below a path and at another port: the form, pictures, zones in pixels, the editor."""
    pixels = [[32, 24], [288, 24], [288, 216]]
    zones = ZonesStore(tmp_path / "zones.json")
    zones.put("yard", {"units": "pixels", "zones": [{"name": "mat", "polygon": pixels}]})
    options = {"token": TOKEN, "zones": zones, "trusted_proxies": ("127.0.0.1",)}
    with (
        serving([camera("yard", every=25), camera("a//b/../c")], **options) as server,
        nginx(tmp_path, server.port) as port,
    ):
        url = f"http://127.0.0.1:{port}/cameras/"
        browser.get(url)
        assert browser.current_url == f"{url}login"
        one(browser, "#token").send_keys(TOKEN)
        one(browser, "button").click()
        wait_for(lambda: has_picture(browser, card("yard")), "a picture")
        assert browser.current_url == url
        cookie = browser.get_cookie(server.access.cookie)
        assert cookie is not None
        assert cookie["path"] == "/cameras/"
        for name in ("yard", "a//b/../c"):
            browser.get(f"{url}#/camera/{quote(name, safe='')}")
            wait_for(lambda: has_picture(browser, "#stage"), "the camera's picture")
            one(browser, "#edit").click()
            one(browser, "#draw-zone").click()
            click_in(browser, one(browser, "#stage .draw"), (0.3, 0.3), (0.7, 0.3), (0.5, 0.7))
            one(browser, "#finish").click()
            one(browser, "#save").click()
            wait_for(lambda name=name: len(zones.get(name)["zones"]) > (name == "yard"), "a zone")
        # What was in pixels is in shares now, at the same place.
        mat, drawn = zones.get("yard")["zones"]
        assert mat == {"name": "mat", "polygon": [[0.1, 0.1], [0.9, 0.1], [0.9, 0.9]]}
        assert np.allclose(drawn["polygon"], [[0.3, 0.3], [0.7, 0.3], [0.5, 0.7]], atol=0.01)
        browser.get("about:blank")  # Else it would try again when this server ends.


def test_the_page_comes_back_when_the_pipeline_does(browser: Chrome) -> None:
    with serving([camera("yard")]) as server:
        browser.get(server.url)
        wait_for(lambda: has_picture(browser, card("yard")), "a picture")
        port = server.port
    assert "connection to the pipeline is lost" in one(browser, "#banner").text
    with serving([camera("gate")], address=f"127.0.0.1:{port}"):
        wait_for(lambda: has_picture(browser, card("gate")), "the other pipeline's picture")
        assert not browser.execute_script(
            "return document.querySelector(arguments[0])", card("yard")
        )
        browser.get("about:blank")  # Else it would try again when this server ends.
    browser.get_log("browser")  # It notes every connection that was refused.
