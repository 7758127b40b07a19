"""The tokenizer over HTTP: ``/tokenize``, ``/detokenize``, ``/tokenizer_info``, input tokens.

Answers are those of llama-server or of vLLM, as the request's fields are.
"""

from __future__ import annotations

from typing import Any

import falcon
import msgspec

from offgrid.api.chat import count_tokens, talk_of
from offgrid.api.request import in_turn, liveness, read_checked, read_object
from offgrid.api.schema.chat import parse_chat
from offgrid.api.schema.tokens import (
    ContentRequest,
    PromptRequest,
    Tokenize,
    parse_detokenize,
    parse_tokenize,
)
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol import ModelInfo, Part, TokenQuery, Tokens
from offgrid.errors import InvalidParameter, ModelNotFound


class _TokensResource:
    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def _engine(
        self, req: falcon.Request, model: str | None, *, unload: bool = True
    ) -> EngineClient:
        """The named model's engine, or the default one's: these endpoints need no model."""
        model = self._pool.default_id if model is None else model
        if model is None:
            raise ModelNotFound("(none)")
        return self._pool.engine(model, liveness(req), unload=unload)


class TokenizeResource(_TokensResource):
    """``POST /tokenize``: text or a conversation to token ids."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer in the form of the request."""
        request = read_checked(req, self._max_body, parse_tokenize)
        engine = self._engine(req, request.model)
        tokens = engine.look_up(_query(engine, request), liveness(req))
        if isinstance(request, ContentRequest):
            pieces = _with_pieces(tokens) if request.with_pieces else tokens.tokens
            _send(resp, {"tokens": pieces})
            return
        _send(
            resp,
            {
                "count": len(tokens.tokens),
                "max_model_len": engine.info.n_ctx,
                "tokens": tokens.tokens,
                "token_strs": tokens.names if request.return_token_strs else None,
            },
        )


class DetokenizeResource(_TokensResource):
    """``POST /detokenize``: token ids to text. Bytes that are no UTF-8 become U+FFFD."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the text, under llama-server's name and under vLLM's."""
        request = read_checked(req, self._max_body, parse_detokenize)
        engine = self._engine(req, request.model)
        query = TokenQuery(tokens=tuple(request.tokens), pieces=True, param="tokens")
        answer = engine.look_up(query, liveness(req))
        text = b"".join(answer.pieces).decode("utf-8", "replace")
        _send(resp, {"content": text, "prompt": text})


class TokenizerInfoResource(_TokensResource):
    """``GET /tokenizer_info``: what a client has to know of the vocabulary."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with names as in a Hugging Face ``tokenizer_config.json``.

        No model is unloaded for that: a GET must not take from others what they use.
        """
        info = self._engine(req, req.get_param("model"), unload=False).info
        resp.media = {
            "tokenizer_class": info.metadata.get("tokenizer.ggml.model"),
            "bos_token": _control(info, info.bos_text),
            "eos_token": _control(info, info.eos_text),
            "pad_token": _control(info, info.pad_text),
            "add_bos_token": info.add_bos,
            "model_max_length": info.n_ctx,
            "vocab_size": info.n_vocab,
            "chat_template": info.chat_template,
        }


class InputTokensResource(_TokensResource):
    """``POST /v1/chat/completions/input_tokens``: how many tokens a chat request's prompt has."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Count; the body is that of a chat request, the model may be left out."""
        body = read_object(req, self._max_body)
        if body.get("model") is None:
            body["model"] = self._pool.default_id
        with in_turn():
            request = parse_chat(body)
        engine = self._engine(req, request.model)
        count = count_tokens(engine, request, "messages", liveness(req))
        resp.media = {"object": "response.input_tokens", "input_tokens": count}


def _send(resp: falcon.Response, body: dict[str, Any]) -> None:
    """Answer with JSON, written faster than the framework does: there may be a million tokens."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)


def _query(engine: EngineClient, request: Tokenize) -> TokenQuery:
    if isinstance(request, ContentRequest):
        part = Part(request.content, request.parse_special)
        return TokenQuery(
            (part,), add_bos=request.add_special, pieces=request.with_pieces, param="content"
        )
    names, add_bos = request.return_token_strs, request.add_special_tokens
    if isinstance(request, PromptRequest):
        return TokenQuery((Part(request.prompt, True),), add_bos=add_bos, names=names)
    body: dict[str, Any] = {"model": "", "messages": request.messages, "tools": request.tools}
    if request.continue_final_message:
        body["continue_final_message"] = True
    else:
        body["add_generation_prompt"] = request.add_generation_prompt
    with in_turn():
        chat = parse_chat(body)
    talk = talk_of(engine.info, chat)
    if talk.images:
        raise InvalidParameter(
            "/tokenize does not accept images; /v1/chat/completions/input_tokens counts them.",
            talk.image_params[0],
        )
    return TokenQuery(talk.prompt.parts, add_bos=add_bos, names=names, param="messages")


def _control(info: ModelInfo, text: str) -> str | None:
    """A control token's text. Files that name none get one of llama.cpp's, which is any token."""
    return text if text in info.control_texts else None


def _with_pieces(tokens: Tokens) -> list[dict[str, Any]]:
    """Ids with their text, or with their bytes where these are no UTF-8 by themselves."""
    result: list[dict[str, Any]] = []
    for token, piece in zip(tokens.tokens, tokens.pieces, strict=True):
        try:
            result.append({"id": token, "piece": piece.decode("utf-8")})
        except UnicodeDecodeError:
            result.append({"id": token, "piece": list(piece)})
    return result
