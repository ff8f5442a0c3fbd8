"""An OpenAI-compatible server on the loopback address that reads its lines from a script.

It stands where a model would, so that the examples need no key and no network. It answers
``POST /v1/chat/completions``, in one piece or streamed, in the format of
https://platform.openai.com/docs/api-reference/chat, and nothing else.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

MODEL = "scripted"
PIECE = 12  # characters of a streamed chunk


@dataclass(frozen=True)
class Call:
    """A tool call the model makes."""

    tool: str
    arguments: dict[str, Any]


Line = str | Call | Callable[[list[dict[str, Any]]], str]


class ScriptedModel:
    """Says one line of its script a request. Use as a context manager.

    Args:
        script: texts, calls of tools, or functions that make a text of the messages so far.
    """

    def __init__(self, script: Sequence[Line]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._script = list(script)
        self._guard = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """What a client takes as its ``base_url``."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The next message for a request; None where the script has ended."""
        with self._guard:
            said = len(self.requests)
            if said == len(self._script):
                return None
            self.requests.append(request)
        line = self._script[said]
        if isinstance(line, Call):
            function = {"name": line.tool, "arguments": json.dumps(line.arguments)}
            call = {"id": f"call_{said}", "type": "function", "function": function}
            return {"role": "assistant", "content": None, "tool_calls": [call]}
        text = line if isinstance(line, str) else line(request["messages"])
        return {"role": "assistant", "content": text}


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A message in pieces, as a stream has them."""
    yield {"role": "assistant", "content": ""}
    text = message["content"] or ""
    for start in range(0, len(text), PIECE):
        yield {"content": text[start : start + PIECE]}
    for index, call in enumerate(message.get("tool_calls", [])):
        arguments = call["function"]["arguments"]
        begin = {**call, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [{"index": index, **begin}]}
        for start in range(0, len(arguments), PIECE):
            piece = {"arguments": arguments[start : start + PIECE]}
            yield {"tool_calls": [{"index": index, "function": piece}]}


def _handler(model: ScriptedModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = json.loads(body)
            known = self.path == "/v1/chat/completions"
            message = model.answer(request) if known else None
            if message is None:
                text = "the script has ended" if known else f"no such route: {self.path}"
                self._send(400, "application/json", json.dumps({"error": {"message": text}}))
                return
            finish = "tool_calls" if "tool_calls" in message else "stop"
            head = {"id": "chatcmpl-scripted", "created": 0, "model": MODEL}
            if not request.get("stream"):
                choice = {"index": 0, "message": message, "finish_reason": finish}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
                self._send(200, "application/json", json.dumps(whole))
                return
            ends = [(delta, None) for delta in _deltas(message)] + [({}, finish)]
            chunks = [
                {
                    **head,
                    "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": delta, "finish_reason": end}],
                }
                for delta, end in ends
            ]
            events = [json.dumps(chunk) for chunk in chunks] + ["[DONE]"]
            self._send(200, "text/event-stream", "".join(f"data: {each}\n\n" for each in events))

        def _send(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass  # the examples show what the agent says

    return Handler
