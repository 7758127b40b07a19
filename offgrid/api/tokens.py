"""The tokeniser over HTTP: ``/tokenize``, ``/detokenize``, ``/tokenizer_info``.

A request with llama-server's fields gets llama-server's answer, one with vLLM's fields gets vLLM's.
"""

from __future__ import annotations

from typing import Annotated, Any

import falcon
import msgspec
from msgspec import Meta

from offgrid.api.chat.prompt import chat_prompt
from offgrid.api.chat.request import (
    ChatRequest,
    Documents,
    Effort,
    Messages,
    TemplateVariables,
    checked,
)
from offgrid.api.chat.tools import Tool
from offgrid.api.engines import engine_for, wait_of
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.common import check_fields
from offgrid.api.fields.keep_alive import KeepAlive
from offgrid.api.http.owner import owner
from offgrid.api.http.request import in_turn, liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.ownership import check_model
from offgrid.api.shapes import Answer, Byte, Count
from offgrid.config import Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.use import Use
from offgrid.engine.protocol.events import TokenResult
from offgrid.engine.protocol.reports import ModelInfo
from offgrid.engine.protocol.requests import PromptPart, TokenQuery
from offgrid.errors import InvalidParameter

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]


class ContentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/tokenize`` in llama-server's form."""

    content: str
    model: str | None = None
    keep_alive: KeepAlive = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class PromptRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/tokenize`` in vLLM's form, for a text."""

    prompt: str
    model: str | None = None
    keep_alive: KeepAlive = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class MessagesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/tokenize`` in vLLM's form, for a conversation.

    The fields of the conversation are those of a chat request.
    """

    messages: Messages
    model: str | None = None
    keep_alive: KeepAlive = None
    # vLLM's default is false: its models' templates write the BOS token themselves. Here that token
    # is never added twice, so with true the tokens are those that the chat endpoint computes.
    add_special_tokens: bool = True
    return_token_strs: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: list[Tool] = msgspec.field(default_factory=list)
    chat_template_kwargs: TemplateVariables = msgspec.field(default_factory=dict)
    reasoning_effort: Effort | None = None
    documents: Documents = msgspec.field(default_factory=list)


class TokensRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/detokenize``, whose request is the same in llama-server and vLLM."""

    tokens: list[TokenId]
    model: str | None = None
    keep_alive: KeepAlive = None


Tokenize = ContentRequest | PromptRequest | MessagesRequest
_KINDS: dict[str, type[Tokenize]] = {
    "content": ContentRequest, "prompt": PromptRequest, "messages": MessagesRequest,
}  # fmt: skip


def parse_tokenize(body: dict[str, Any]) -> Tokenize:
    """Check the body of ``/tokenize``; its form depends on which of the three fields it has.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    given = [name for name in _KINDS if body.get(name) is not None]
    if not given:
        raise InvalidParameter(
            "One of content, prompt and messages is required.",
            "prompt",
            code="missing_required_parameter",
        )
    if len(given) > 1:
        raise InvalidParameter(f"{given[0]} and {given[1]} are mutually exclusive.", given[1])
    return check_fields(body, _KINDS[given[0]])


def parse_detokenize(body: dict[str, Any]) -> TokensRequest:
    """Check the body of ``/detokenize``.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    return check_fields(body, TokensRequest)


class TokenPiece(Answer):
    """A token with its text, or with its bytes if these alone are not valid UTF-8."""

    id: Count
    piece: str | list[Byte]


class ContentTokens(Answer):
    """The answer in llama-server's form."""

    tokens: list[Count | TokenPiece]


class PromptTokens(Answer):
    """The answer in vLLM's form."""

    count: Count
    max_model_len: Count
    tokens: list[Count]
    token_strs: list[str] | None


class Detokenized(Answer):
    """The text, under llama-server's name and under vLLM's."""

    content: str
    prompt: str


class TokenizerInfo(Answer):
    """Names as in Hugging Face's ``tokenizer_config.json``; null if there is no value."""

    tokenizer_class: str | None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    add_bos_token: bool
    model_max_length: Count
    vocab_size: Count
    chat_template: str | None


class _TokensResource:
    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20


class TokenizeResource(_TokensResource):
    """``POST /tokenize``: converts text or a conversation into token ids."""

    scopes = INFERENCE

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer in the form of the request."""
        request = read_checked(req, self._max_body, parse_tokenize)
        engine = engine_for(self._pool, req, request)
        tokens = engine.look_up(token_query(engine, request), bounds().within(liveness(req)))
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
    """``POST /detokenize``: converts token ids into text. Invalid UTF-8 becomes U+FFFD."""

    scopes = INFERENCE

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the text, under llama-server's name and under vLLM's."""
        request = read_checked(req, self._max_body, parse_detokenize)
        engine = engine_for(self._pool, req, request)
        query = TokenQuery(tokens=tuple(request.tokens), pieces=True, param="tokens", owner=owner())
        answer = engine.look_up(query, bounds().within(liveness(req)))
        text = b"".join(answer.pieces).decode("utf-8", "replace")
        _send(resp, {"content": text, "prompt": text})


class TokenizerInfoResource(_TokensResource):
    """``GET /tokenizer_info``: describes the vocabulary to clients."""

    scopes = INFERENCE

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with names as in a Hugging Face ``tokenizer_config.json``.

        This unloads no model: a GET must not take a model away from other clients. Nor does it
        keep one loaded.
        """
        use = Use(wait=wait_of(req), unload=False, owner=owner())
        model = req.get_param("model") or ""
        check_model(self._pool, model)
        info = self._pool.engine(model, bounds().within(liveness(req)), use).info
        resp.media = {
            "tokenizer_class": info.metadata.get("tokenizer.ggml.model"),
            "bos_token": control_text(info, info.bos_text),
            "eos_token": control_text(info, info.eos_text),
            "pad_token": control_text(info, info.pad_text),
            "add_bos_token": info.add_bos,
            "model_max_length": info.n_ctx,
            "vocab_size": info.n_vocab,
            "chat_template": info.chat_template,
        }


def _send(resp: falcon.Response, body: dict[str, Any]) -> None:
    """Answer with JSON. msgspec is faster than falcon's encoder: there may be a million tokens."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode(body)


def token_query(engine: EngineClient, request: Tokenize) -> TokenQuery:
    """Return what the worker's tokeniser is asked for.

    Raises:
        InvalidParameter: the conversation is not valid, or contains images.
    """
    if isinstance(request, ContentRequest):
        part = PromptPart(request.content, request.parse_special)
        return TokenQuery(
            (part,),
            add_bos=request.add_special,
            pieces=request.with_pieces,
            param="content",
            owner=owner(),
        )
    names, add_bos = request.return_token_strs, request.add_special_tokens
    if isinstance(request, PromptRequest):
        part = PromptPart(request.prompt, True)
        return TokenQuery((part,), add_bos=add_bos, names=names, owner=owner())
    resume = request.continue_final_message
    with in_turn():
        chat = checked(
            ChatRequest(
                messages=request.messages,
                tools=request.tools,
                chat_template_kwargs=request.chat_template_kwargs,
                reasoning_effort=request.reasoning_effort,
                documents=request.documents,
                continue_final_message=resume,
                add_generation_prompt=None if resume else request.add_generation_prompt,
            )
        )
    prompt = chat_prompt(engine, chat)
    if prompt.images:
        raise InvalidParameter(
            "/tokenize does not accept images; /v1/chat/completions/input_tokens counts them.",
            prompt.image_params[0],
        )
    return TokenQuery(
        prompt.rendered.parts, add_bos=add_bos, names=names, param="messages", owner=owner()
    )


def control_text(info: ModelInfo, text: str) -> str | None:
    """Return a control token's text, or None.

    If the file names no such token, llama.cpp gives a default id, which may be any token.
    """
    return text if text in info.control_texts else None


def _with_pieces(tokens: TokenResult) -> list[dict[str, Any]]:
    """Return token ids with their text, or with their bytes if these alone are not UTF-8."""
    result: list[dict[str, Any]] = []
    for token, piece in zip(tokens.tokens, tokens.pieces, strict=True):
        try:
            result.append({"id": token, "piece": piece.decode("utf-8")})
        except UnicodeDecodeError:
            result.append({"id": token, "piece": list(piece)})
    return result
