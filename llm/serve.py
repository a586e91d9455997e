"""Serve a trained model: a page to read it in, and OpenAI's completions API.

    python serve.py --out_dir=out-prince

Then open http://127.0.0.1:8000, or point any client of OpenAI's completions API to http://127.0.0.1:8000/v1. Needs the
extra serve. Only this machine is answered, unless LLM_API_KEY holds a key that all requests must then bring along.
"""

import asyncio
import hmac
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from llm import runtime
from llm.configurator import PACKAGE, PositiveInt, UserError, require, run_script
from llm.reading.cite import Book
from llm.reading.prompt import encode_prompt
from llm.runtime import notice
from llm.sample import book_text, load_reader
from llm.serving.completions import Answer, Refused, Request, checked
from llm.serving.engine import Engine, Full

PAGE = PACKAGE / "serving" / "page.html"
MAX_BODY_BYTES = 1_000_000  # bytes of a request
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings(runtime.Settings):
    # which model
    out_dir: str = "out"  # the folder that train.py wrote
    checkpoint_name: str = "ckpt.pt"  # which of its checkpoints
    # where
    host: str = "127.0.0.1"  # any other than this machine's own needs a key in LLM_API_KEY
    port: int = 8000  # 0 = any that is free
    # how much
    max_prompt_tokens: PositiveInt = 4096  # of a request; the model sees the last block_size of them
    max_new_tokens: PositiveInt = 4096  # of a request's max_tokens
    queue: PositiveInt = 64  # samples that may wait; beyond it, requests are answered with 429


class Service:
    """One model, and what is asked of it."""

    def __init__(self, cfg: Settings):
        reader, self.tokenizer, info = load_reader(cfg)
        self.cfg, self.name, self.created = cfg, Path(cfg.out_dir).resolve().name, int(time.time())
        self.text = book_text(reader, self.tokenizer)
        self.book = Book(self.text) if self.text else None
        self.engine = Engine(reader, self.tokenizer, most_waiting=cfg.queue)

    def encoded(self, prompt) -> list[int]:
        """The ids of a prompt. Refused for one that is too long or that the model cannot read."""
        if isinstance(prompt, str):
            try:
                ids = encode_prompt(self.tokenizer, prompt, self.text)
            except UserError as e:
                raise Refused(400, str(e), param="prompt") from None
        else:
            ids = prompt
            if min(ids) < 0 or max(ids) >= self.tokenizer.vocab_size:
                raise Refused(400, f"prompt: ids are from 0 to {self.tokenizer.vocab_size - 1}", param="prompt")
        if len(ids) > self.cfg.max_prompt_tokens:
            message = f"prompt has {len(ids):,} tokens: at most {self.cfg.max_prompt_tokens:,} are allowed here"
            raise Refused(400, message, param="prompt", code="context_length_exceeded")
        return ids

    def start(self, asked: Request) -> Answer:
        """Puts the samples that a request asks for into the queue. Refused with 429 where it is full."""
        prompts = [self.encoded(prompt) for prompt in asked.prompts]
        if len(prompts) * asked.n > self.cfg.queue:
            message = f"{len(prompts)} prompts times n={asked.n}: at most {self.cfg.queue} samples in a request"
            raise Refused(400, message, param="n")
        answer = Answer(self.name, asked, prompts, self.tokenizer)
        try:
            self.engine.submit(answer.jobs)
        except Full:
            raise Refused(429, "too many requests are waiting; try again in a moment", code="queue_full") from None
        return answer


def gatekeeper(cfg: Settings, key: str | None):
    """refuse(headers, path): Refused for a request that comes from a web page elsewhere, or lacks the key.

    A page in a browser can send requests to this machine: they carry its Origin, or, where its host's name was made to
    mean this machine (DNS rebinding), a foreign Host.
    """
    own = {cfg.host, *LOOPBACK} if cfg.host in LOOPBACK else None

    def refuse(headers, path: str) -> None:
        host = headers.get("host", "")
        if own and host.rsplit(":", 1)[0].strip("[]") not in own and host.strip("[]") not in own:
            raise Refused(403, f"Host {host!r} is not this machine")
        if headers.get("origin") not in (None, f"http://{host}", f"https://{host}"):
            raise Refused(403, f"Origin {headers['origin']!r} is another site")
        if key and path not in ("/", "/healthz"):
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), key.encode()):
                raise Refused(401, "expected the server's key: Authorization: Bearer KEY", code="invalid_api_key")

    return refuse


def make_app(service: Service, cfg: Settings, key: str | None):
    """The FastAPI application."""
    import fastapi
    from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
    from starlette.datastructures import Headers
    from starlette.exceptions import HTTPException

    refuse, page = gatekeeper(cfg, key), PAGE.read_text(encoding="utf-8")
    app = fastapi.FastAPI(title="llm", openapi_url=None)

    def refusal(e: Refused) -> JSONResponse:
        return JSONResponse(e.body(), e.status)

    class Gate:  # before everything else
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            answer = self.app
            if scope["type"] == "http":
                try:
                    refuse(Headers(scope=scope), scope["path"])
                except Refused as e:
                    answer = refusal(e)
            await answer(scope, receive, send)

    app.add_middleware(Gate)

    @app.exception_handler(Refused)
    async def refused(request, e: Refused):
        return refusal(e)

    @app.exception_handler(HTTPException)
    async def no_such_path(request, e: HTTPException):
        return refusal(Refused(e.status_code, f"{request.method} {request.url.path}: {e.detail}"))

    async def json_of(request: fastapi.Request):
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise Refused(400, f"the body has more than {MAX_BODY_BYTES:,} bytes")
        try:
            return json.loads(body)
        except ValueError:  # also where it is not UTF-8
            raise Refused(400, "the body is not JSON") from None
        except RecursionError:
            raise Refused(400, "the body is nested too deeply") from None

    @app.get("/")
    async def read():
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        headers = {"Content-Security-Policy": f"{policy}; img-src data:; base-uri 'none'; frame-ancestors 'none'"}
        return HTMLResponse(page, headers=headers)

    @app.get("/healthz")
    async def health():
        return {"status": "ok", "running": len(service.engine.running), "waiting": len(service.engine.waiting)}

    @app.get("/v1/models")
    async def models():
        model = {"id": service.name, "object": "model", "created": service.created, "owned_by": "llm"}
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name}")
    async def model(name: str):
        if name != service.name:
            raise Refused(404, f"there is no model {name!r} here, only {service.name!r}", code="model_not_found")
        return (await models())["data"][0]

    @app.post("/v1/completions")
    async def completions(request: fastapi.Request):
        asked = checked(await json_of(request), cfg, service.name)
        answer = service.start(asked)
        if asked.stream:
            return StreamingResponse(answer.events(), media_type="text/event-stream")
        waiting = asyncio.create_task(answer.whole())
        while not (await asyncio.wait([waiting], timeout=0.5))[0]:
            if await request.is_disconnected():
                waiting.cancel()
                return JSONResponse({}, 499)
        return waiting.result()

    @app.post("/cite")
    async def cite(request: fastapi.Request):
        body = await json_of(request)
        if not isinstance(body, dict) or not isinstance(body.get("text"), str):
            raise Refused(400, "text: expected a text", param="text")
        cut = await asyncio.to_thread(service.book.cut, body["text"]) if service.book else [(body["text"], None)]
        pieces = [{"text": t} | ({"words": span.words, "where": span.where()} if span else {}) for t, span in cut]
        return {"book": service.book is not None, "pieces": pieces}

    return app


def listen(cfg: Settings) -> socket.socket:
    """A socket that is bound to where the settings say. UserError where that is not possible."""
    if not 0 <= cfg.port < 2**16:
        raise UserError(f"port={cfg.port}: expected a number from 0 to 65535; type --port=0 for one that is free")
    try:
        return socket.create_server((cfg.host, cfg.port), family=socket.AF_INET6 if ":" in cfg.host else socket.AF_INET)
    except OSError as e:
        why = os.strerror(e.errno) if getattr(e, "errno", None) else e
        raise UserError(
            f"cannot listen on {cfg.host}, port {cfg.port}: {why}; type another --port, or --port=0"
        ) from None


def main(cfg: Settings) -> None:
    uvicorn = require("uvicorn", "serve")
    require("fastapi", "serve")
    key = os.environ.get("LLM_API_KEY")
    if cfg.host not in LOOPBACK and not key:
        raise UserError(
            f"host={cfg.host} is open to others: put a key into LLM_API_KEY, which they must then bring along"
        )
    with listen(cfg) as place:
        service = Service(cfg)
        host = f"[{cfg.host}]" if ":" in cfg.host else cfg.host
        notice(f"serving {service.name} at http://{host}:{place.getsockname()[1]}; Ctrl-C finishes what runs and ends")
        server = uvicorn.Server(uvicorn.Config(make_app(service, cfg, key), log_level="warning", lifespan="off"))
        try:
            server.run(sockets=[place])
        finally:
            service.engine.close()


if __name__ == "__main__":
    run_script(main, Settings, __doc__)
