"""The page's addresses."""

# No `from __future__ import annotations` here: FastAPI reads annotations at run time, and these
# name classes that are imported within a function, because FastAPI is optional.

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

from trt_afdet.errors import InvalidValueError, MissingDependencyError, WriteError
from trt_afdet.web.guard import new_cookie
from trt_afdet.web.picture import fitting_width, jpeg

if TYPE_CHECKING:
    from fastapi import FastAPI

    from trt_afdet.web.server import WebServer

Handler = TypeVar("Handler", bound=Callable[..., Any])
STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
#: Seen without the token: the way in, what it looks like, and whether all is well.
PUBLIC = ("/login", "/healthz", "/favicon.ico")


def is_public(path: str) -> bool:
    """Whether a path may be seen without the token."""
    return path in PUBLIC or path.startswith("/static/")


def make_app(server: "WebServer") -> "FastAPI":
    """The application.

    Raises:
        MissingDependencyError: If FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI, Request, Response, WebSocket
    except ImportError as error:
        raise MissingDependencyError(
            "fastapi cannot be imported", got=error, hint='pip install "trt-afdet[web]"'
        ) from error

    hub, zones = server.hub, server.zones
    # Read once: no request reaches the file system, so none can leave the folder.
    files = {p.name: p.read_bytes() for p in STATIC.iterdir() if p.suffix in TYPES}
    tags = {name: f'"{hashlib.sha256(data).hexdigest()[:20]}"' for name, data in files.items()}
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)

    def reading(path: str) -> Callable[[Handler], Handler]:
        return app.api_route(path, methods=["GET", "HEAD"], response_model=None)

    def as_json(value: Any, status: int = 200) -> Response:
        text = json.dumps(value, ensure_ascii=False)
        headers = {"cache-control": "no-store"}
        return Response(text, status, headers=headers, media_type="application/json")

    def problem(status: int, what: str) -> Response:
        return as_json({"error": what[:300]}, status)

    def file(name: str, request: Request) -> Response:
        data = files.get(name)
        if data is None:
            return problem(404, "there is nothing here")
        headers = {"etag": tags[name], "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(data, headers=headers, media_type=TYPES[Path(name).suffix])

    @reading("/")
    async def page(request: Request) -> Response:
        return file("index.html", request)

    @reading("/static/{name}")
    async def static(name: str, request: Request) -> Response:
        return file(name, request)

    @reading("/favicon.ico")
    async def icon(request: Request) -> Response:
        return file("icon.svg", request)

    @reading("/login")
    async def login_page(request: Request) -> Response:
        return file("login.html", request)

    @app.post("/login", response_model=None)
    async def login(request: Request) -> Response:
        access = server.access
        address = request.client.host if request.client else ""
        if access.blocked(address):
            return problem(429, "too many wrong tokens; wait a minute")
        form = parse_qs((await request.body()).decode("latin-1"), max_num_fields=8)
        if access.required and not access.token_is_right(next(iter(form.get("token", [])), "")):
            access.note_wrong(address)
            wrong = files["login.html"].replace(b'id="wrong" hidden', b'id="wrong"')
            return Response(wrong, 401, media_type=TYPES[".html"])
        cookie = new_cookie(access, request.scope["asked"])
        headers = {"location": "./", "set-cookie": cookie, "cache-control": "no-store"}
        return Response(status_code=303, headers=headers)

    @reading("/healthz")
    async def healthz(request: Request) -> Response:
        _, health = server.judge()
        status = 503 if health.status == "unhealthy" else 200
        # Names of cameras are for those who have signed in.
        reasons = {"reasons": list(health.reasons)} if request.scope["signed_in"] else {}
        return as_json({"status": health.status, **reasons}, status)

    @reading("/metrics")
    async def metrics(request: Request) -> Response:
        text, kind = server.exposition.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind, "cache-control": "no-store"})

    @reading("/api/state")
    async def state() -> Response:
        return as_json(server.state())

    @reading("/api/events")
    async def events() -> Response:
        return as_json({"events": hub.events_after(0)})

    @reading("/api/picture/{camera:path}")
    async def picture(camera: str, width: int = 1280) -> Response:
        slot = hub.latest(hub.names.find(camera) or camera)
        if slot is None:
            return problem(404, "no camera of that name has given a picture")
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(
            server.feed.workers, jpeg, slot, fitting_width(width), server.quality
        )
        return Response(data, headers={"cache-control": "no-store"}, media_type="image/jpeg")

    @reading("/api/zones")
    async def all_zones() -> Response:
        return as_json({hub.names.of(source): value for source, value in zones.all().items()})

    @reading("/api/zones/{camera:path}")
    async def zones_of(camera: str) -> Response:
        name = hub.names.find(camera)
        source = hub.names.source(name) if name is not None else None
        if name is None or source is None:
            return problem(404, "there is no camera of that name")
        return as_json(zones.get(source))

    @app.put("/api/zones/{camera:path}", response_model=None)
    async def put_zones(camera: str, request: Request) -> Response:
        name = hub.names.find(camera)
        source = hub.names.source(name) if name is not None else None
        if name is None or source is None:
            return problem(404, "there is no camera of that name")
        # Other sites' forms cannot send this type.
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return problem(415, "send application/json")
        try:
            value = json.loads(await request.body())
        except (ValueError, RecursionError):
            return problem(400, "this is not JSON")
        loop = asyncio.get_running_loop()
        try:
            stored = await loop.run_in_executor(server.feed.workers, zones.put, source, value)
        except InvalidValueError as error:
            return problem(422, str(error))
        except WriteError as error:
            return problem(507, error.what + f" ({error.hint})" * bool(error.hint))
        hub.reset_tallies(name)
        server.feed.wake()
        return as_json(stored)

    @app.websocket("/ws")
    async def feed(socket: WebSocket) -> None:
        await server.feed.serve(socket)

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def nothing(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        return problem(status, "there is nothing here" if status == 404 else "not this method")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        raise error  # The guard logs it and answers.

    return app
