"""The page's routes."""

# No `from __future__ import annotations` here: FastAPI reads annotations at run time, and these
# name classes that are imported within a function, because FastAPI is optional.

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

from trt_afdet.errors import InvalidValueError, WriteError
from trt_afdet.stream.monitoring.health import Health
from trt_afdet.stream.monitoring.prometheus import Exposition
from trt_afdet.web.access import Access
from trt_afdet.web.broadcaster import Broadcaster
from trt_afdet.web.guard import new_cookie
from trt_afdet.web.results import fitting_width, reduced_jpeg

if TYPE_CHECKING:
    from fastapi import FastAPI

Handler = TypeVar("Handler", bound=Callable[..., Any])
STATIC = Path(__file__).parent / "static"


def make_app(
    broadcaster: Broadcaster, access: Access, health: Callable[[], Health], exposition: Exposition
) -> "FastAPI":
    """The application, without what :class:`trt_afdet.web.guard.Guard` checks."""
    from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
    from fastapi.responses import HTMLResponse, JSONResponse
    from fastapi.staticfiles import StaticFiles
    from starlette.exceptions import HTTPException as AnyHTTPException

    results, zones = broadcaster.results, broadcaster.zones
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    # Some installers link a package's files instead of copying them.
    static = StaticFiles(directory=STATIC, follow_symlink=True)

    def get(path: str) -> Callable[[Handler], Handler]:
        return app.api_route(path, methods=["GET", "HEAD"], response_model=None)

    def find(camera: str) -> tuple[str, str]:
        """The public name and the source of a camera in an address."""
        name = results.names.find(camera)
        source = results.names.source(name) if name is not None else None
        if name is None or source is None:
            raise HTTPException(404, "there is no camera of that name")
        return name, source

    async def in_thread(call: Callable[..., Any], *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(broadcaster.workers, call, *values)

    def serve(path: str, file: str) -> None:
        @get(path)
        async def page(request: Request) -> Response:
            return await static.get_response(file, request.scope)

    # A route per file, and no path from a request: nothing else can be read.
    for file in STATIC.iterdir():
        serve(f"/static/{file.name}", file.name)
    serve("/", "index.html")
    serve("/login", "login.html")
    serve("/favicon.ico", "icon.svg")

    @app.post("/login", response_model=None)
    async def login(request: Request) -> Response:
        address = request.client.host if request.client else ""
        if access.blocked(address):
            raise HTTPException(429, "too many wrong tokens; wait a minute")
        form = parse_qs((await request.body()).decode("latin-1"), max_num_fields=8)
        if access.required and not access.token_is_right(next(iter(form.get("token", [])), "")):
            access.note_wrong(address)
            text = (STATIC / "login.html").read_text("utf-8")
            return HTMLResponse(text.replace('id="wrong" hidden', 'id="wrong"'), 401)
        cookie = new_cookie(access, request.scope["browser_request"])
        return Response(status_code=303, headers={"location": "./", "set-cookie": cookie})

    @get("/healthz")
    async def healthz(request: Request) -> Response:
        verdict = health()
        # Names of cameras are for those who have signed in.
        reasons = {"reasons": verdict.reasons} if request.scope["signed_in"] else {}
        status = 503 if verdict.status == "unhealthy" else 200
        return JSONResponse({"status": verdict.status, **reasons}, status)

    @get("/metrics")
    async def metrics(request: Request) -> Response:
        text, kind = exposition.text(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})

    @get("/api/state")
    async def state() -> Response:
        return JSONResponse(broadcaster.state())

    @get("/api/events")
    async def events() -> Response:
        return JSONResponse({"events": results.events_after(0)})

    @get("/api/picture/{camera:path}")
    async def picture(camera: str, width: int = 1280) -> Response:
        latest = results.latest(results.names.find(camera) or camera)
        if latest is None:
            raise HTTPException(404, "no camera of that name has given a picture")
        jpeg = await in_thread(reduced_jpeg, latest, fitting_width(width), broadcaster.quality)
        return Response(jpeg, media_type="image/jpeg")

    @get("/api/zones")
    async def all_zones() -> Response:
        return JSONResponse({results.names.of(source): z for source, z in zones.all().items()})

    @get("/api/zones/{camera:path}")
    async def zones_of(camera: str) -> Response:
        return JSONResponse(zones.get(find(camera)[1]))

    @app.put("/api/zones/{camera:path}", response_model=None)
    async def put_zones(camera: str, request: Request) -> Response:
        name, source = find(camera)
        # Other sites' forms cannot send this type.
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "send application/json")
        try:
            value = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "this is not JSON") from error
        try:
            stored = await in_thread(zones.put, source, value)
        except InvalidValueError as error:
            raise HTTPException(422, str(error)) from error
        except WriteError as error:
            raise HTTPException(507, error.what + f" ({error.hint})" * bool(error.hint)) from error
        results.reset_tallies(name)
        broadcaster.wake()
        return JSONResponse(stored)

    @app.websocket("/ws")
    async def watch(socket: WebSocket) -> None:
        await broadcaster.serve(socket)

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> Response:
        texts = {"Not Found": "there is nothing here", "Method Not Allowed": "not this method"}
        text = texts.get(error.detail, error.detail)[:300]
        return JSONResponse({"error": text}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        raise error  # The guard logs it and answers.

    return app
