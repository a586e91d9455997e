"""The FastAPI application: the page, OpenAI's API, citations.

    GET  /                      the page
    GET  /healthz               whether it runs, and how many samples run and wait
    GET  /v1/models             the model's name, as OpenAI's API gives it; also /v1/models/NAME
    POST /v1/completions        OpenAI's completions, streamed if asked
    POST /v1/chat/completions   OpenAI's chat completions: the last user message is continued
    POST /cite                  {"text": ...} in pieces, those that occur in the book with their place
    GET  /book                  title, author, contents; /book/text?start=0&end=500; /book/windows: what is known of it
    POST /compare               {"text": ...} in pieces, recited or invented, with the book's wording
    POST /before/completions    as /v1/completions, from the model before it learned the book
    GET  /watch                 how it learns, or has learned: progress and curves

Needs the extra serve. Who may send requests: see access.py; how many connections, how slow: see connections.py.
"""

import asyncio
import codecs
import gc
import json
import re

import pydantic_core
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llm.serving.access import Access
from llm.serving.page import PAGE, PAGE_HEADERS
from llm.serving.parameters import Refused, parameter, shown
from llm.serving.room import Room
from llm.serving.service import Service
from llm.serving.watching import Watcher

MAX_BODY_BYTES = 1_000_000  # bytes of a request
DISCONNECT_SECONDS = 0.5  # between checks whether a client that waits for an answer has left
CLIENT_LEFT = 499  # nginx's status for a client that left; nobody reads it


HEADERS = {  # of each answer
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

router = APIRouter()


def make_app(service: Service | Watcher, access: Access) -> FastAPI:
    """The application."""
    app = FastAPI(title="llm", openapi_url=None, redirect_slashes=False)
    app.state.service = service
    app.add_middleware(Gate, access=access)
    app.add_exception_handler(Refused, answer_refused)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.include_router(router)
    return app


class Json(JSONResponse):
    """JSON in UTF-8; a lone surrogate, which has no UTF-8, becomes "?"."""

    def render(self, content) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class Gate:
    """ASGI middleware that checks each HTTP request before anything else sees it, and adds HEADERS to its answer."""

    def __init__(self, app, *, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope, receive, send):
        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = message | {"headers": [*message.get("headers", []), *own]}
            await send(message)

        answer = self.app
        if scope["type"] == "http":
            try:
                headers = Headers(scope=scope)
                check_framing(headers)
                self.access.check(headers, scope["path"], (scope.get("client") or ("",))[0])
                check_size(headers)
            except Refused as e:
                answer = Json(e.body(), e.status, {"Connection": "close"} if e.code == "bad_framing" else None)
            if scope["method"] == "HEAD":
                scope = scope | {"method": "GET"}  # uvicorn sends the head alone
        await answer(scope, receive, send_with_headers)


def check_framing(headers: Headers) -> None:
    """Refused if it is not certain where the request ends (RFC 9112, 6.1); the connection must then be closed."""
    if "content-length" in headers and "transfer-encoding" in headers:
        raise Refused(400, "Content-Length and Transfer-Encoding: expected one of them", code="bad_framing")


def check_size(headers: Headers) -> None:
    """Refused if the request says that its body is too large."""
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MAX_BODY_BYTES:
        raise body_too_large()


def body_too_large() -> Refused:
    return Refused(413, f"the body has more than {MAX_BODY_BYTES:,} bytes")


async def answer_refused(request: Request, e: Refused) -> JSONResponse:
    return Json(e.body(), e.status)


async def answer_http_exception(request: Request, e: HTTPException) -> JSONResponse:
    """The answer for an unknown path or method, in the form of OpenAI's errors."""
    path = request.url.path[:200]
    return await answer_refused(request, Refused(e.status_code, f"{request.method} {path}: {e.detail}"))


async def json_body(request: Request):
    """A request's JSON. Refused if it is too large or no JSON."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise body_too_large()
    except ClientDisconnect:
        raise Refused(CLIENT_LEFT, "the client left") from None
    return parse_json(bytes(body.removeprefix(codecs.BOM_UTF8)))


def parse_json(data: bytes):
    """The value of JSON in UTF-8. Refused if it is not, or has a lone surrogate, or is nested too deeply.

    Everything else waits meanwhile: at most 40 ms of CPU time for 1 MB, about half of what json.loads takes with
    the garbage collections that it sets off.
    """
    gc.disable()
    try:
        return pydantic_core.from_json(data, cache_strings="none")
    except ValueError as e:
        raise Refused(400, f"the body is not JSON: {str(e)[:200]}") from None
    finally:
        gc.enable()


@router.get("/")
async def get_page():
    return HTMLResponse(PAGE, headers=PAGE_HEADERS)


@router.get("/healthz")
async def get_health(request: Request):
    running, waiting = request.app.state.service.jobs()
    return {"status": "ok", "running": running, "waiting": waiting}


def model_object(service: Service) -> dict:
    """OpenAI's model object, and the titles of the books that the model was trained on."""
    model = {"id": service.name, "object": "model", "created": service.created, "owned_by": "llm"}
    return model | {"books": service.overview()["books"]}


@router.get("/v1/models")
async def get_models(request: Request):
    return {"object": "list", "data": [model_object(request.app.state.service)]}


@router.get("/v1/models/{name}")
async def get_model(name: str, request: Request):
    service = request.app.state.service
    if name != service.name:
        raise Refused(404, f"there is no model {name[:100]!r} here, only {service.name!r}", code="model_not_found")
    return model_object(service)


@router.post("/v1/completions")
async def post_completions(request: Request):
    return await complete(request, chat=False)


@router.post("/v1/chat/completions")
async def post_chat_completions(request: Request):
    return await complete(request, chat=True)


async def complete(request: Request, *, chat: bool) -> Response:
    """The answer to a request for completions."""
    return await answer_completion(request, request.app.state.service, chat=chat)


async def answer_completion(request: Request, service: Service, *, chat: bool) -> Response:
    """The answer to a request for completions from this service. Stops drawing when the client leaves."""
    completion_request = service.parse(await json_body(request), chat=chat)
    answer = await service.start(completion_request)
    if completion_request.stream:
        return StreamingResponse(answer.events(), media_type="text/event-stream")
    whole = asyncio.create_task(answer.whole())
    while not (await asyncio.wait([whole], timeout=DISCONNECT_SECONDS))[0]:
        if await request.is_disconnected():
            whole.cancel()
            return Json({}, CLIENT_LEFT)
    return Response(whole.result(), media_type="application/json")


@router.post("/before/completions")
async def post_before_completions(request: Request):
    before = request.app.state.service.before
    if before is None:
        raise Refused(404, "there is no checkpoint of the model before it learned: out_dir has no ckpt_init.pt")
    return await answer_completion(request, await before.service(), chat=False)


async def body_with_text(request: Request) -> dict:
    """A request's JSON. Refused if it has no text."""
    body = await json_body(request)
    if not isinstance(body, dict) or not isinstance(body.get("text"), str):
        raise Refused(400, "text: expected a text", param="text")
    return body


@router.post("/cite")
async def post_cite(request: Request):
    return Json(await request.app.state.service.cite((await body_with_text(request))["text"]))


@router.post("/compare")
async def post_compare(request: Request):
    body = await body_with_text(request)
    first = parameter(body, "first", 0, (int,), "a number of characters", lambda n: n >= 0)
    return Json(await request.app.state.service.compare(body["text"], first))


@router.get("/book")
async def get_book(request: Request):
    return Json(request.app.state.service.overview())


def room_of(request: Request) -> Room:
    """The reading room. Refused if the book is not at hand."""
    room = request.app.state.service.room
    if room is None:
        raise Refused(404, request.app.state.service.overview()["reason"], code="no_book")
    return room


def query_number(request: Request, name: str) -> int:
    """A number in the address. Refused if it is none."""
    value = request.query_params.get(name, "")
    if not re.fullmatch("[0-9]{1,15}", value):
        raise Refused(400, f"{name} is {shown(value)}: expected a number", param=name)
    return int(value)


@router.get("/book/text")
async def get_text(request: Request):
    return Json(room_of(request).text(query_number(request, "start"), query_number(request, "end")))


@router.get("/book/windows")
async def get_windows(request: Request):
    return Json(await request.app.state.service.windows(room_of(request)))


@router.get("/watch")
async def get_watch(request: Request):
    return Json(await request.app.state.service.progress())
