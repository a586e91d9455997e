"""The FastAPI application: the page, OpenAI's completions API, citations.

    GET  /                   the page
    GET  /healthz            whether it runs, and how many samples run and wait
    GET  /v1/models          the model's name, as OpenAI's API gives it; also /v1/models/NAME
    POST /v1/completions     OpenAI's completions, streamed if asked
    POST /cite               {"text": ...} in pieces, those that occur in the book with their place

Needs the extra serve. Who may send requests: see access.py.
"""

import asyncio
import json
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from llm.serving.access import Check, request_check
from llm.serving.completions import Refused
from llm.serving.service import Service

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
MAX_BODY_BYTES = 1_000_000  # bytes of a request
DISCONNECT_SECONDS = 0.5  # between checks whether a client that waits for an answer has left
PAGE_HEADERS = {  # the page may load nothing from elsewhere, and no other site may frame it
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
}

router = APIRouter()


def make_app(service: Service, *, host: str, key: str | None) -> FastAPI:
    """The application. host: that the server listens on; key: that requests must bring along; None = none."""
    app = FastAPI(title="llm", openapi_url=None)
    app.state.service = service
    app.add_middleware(Gate, check=request_check(host, key))
    app.add_exception_handler(Refused, answer_refused)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.include_router(router)
    return app


class Gate:
    """ASGI middleware that checks each HTTP request before anything else sees it."""

    def __init__(self, app, *, check: Check):
        self.app, self.check = app, check

    async def __call__(self, scope, receive, send):
        answer = self.app
        if scope["type"] == "http":
            try:
                self.check(Headers(scope=scope), scope["path"])
            except Refused as e:
                answer = JSONResponse(e.body(), e.status)
        await answer(scope, receive, send)


async def answer_refused(request: Request, e: Refused) -> JSONResponse:
    return JSONResponse(e.body(), e.status)


async def answer_http_exception(request: Request, e: HTTPException) -> JSONResponse:
    """The answer for an unknown path or method, in the form of OpenAI's errors."""
    return await answer_refused(request, Refused(e.status_code, f"{request.method} {request.url.path}: {e.detail}"))


async def json_body(request: Request):
    """A request's JSON. Refused if it is too large or no JSON."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Refused(400, f"the body has more than {MAX_BODY_BYTES:,} bytes")
    try:
        return json.loads(body)
    except ValueError:  # also if it is not UTF-8
        raise Refused(400, "the body is not JSON") from None
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None


@router.get("/")
async def get_page():
    return HTMLResponse(PAGE, headers=PAGE_HEADERS)


@router.get("/healthz")
async def get_health(request: Request):
    engine = request.app.state.service.engine
    return {"status": "ok", "running": len(engine.running), "waiting": len(engine.waiting)}


def model_object(service: Service) -> dict:
    """OpenAI's model object."""
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "llm"}


@router.get("/v1/models")
async def get_models(request: Request):
    return {"object": "list", "data": [model_object(request.app.state.service)]}


@router.get("/v1/models/{name}")
async def get_model(name: str, request: Request):
    service = request.app.state.service
    if name != service.name:
        raise Refused(404, f"there is no model {name!r} here, only {service.name!r}", code="model_not_found")
    return model_object(service)


@router.post("/v1/completions")
async def post_completions(request: Request):
    service = request.app.state.service
    completion_request = service.parse(await json_body(request))
    answer = service.start(completion_request)
    if completion_request.stream:
        return StreamingResponse(answer.events(), media_type="text/event-stream")
    whole = asyncio.create_task(answer.whole())
    while not (await asyncio.wait([whole], timeout=DISCONNECT_SECONDS))[0]:
        if await request.is_disconnected():
            whole.cancel()
            return JSONResponse({}, 499)
    return whole.result()


@router.post("/cite")
async def post_cite(request: Request):
    body = await json_body(request)
    if not isinstance(body, dict) or not isinstance(body.get("text"), str):
        raise Refused(400, "text: expected a text", param="text")
    return await asyncio.to_thread(request.app.state.service.cite, body["text"])
