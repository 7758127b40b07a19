"""An image, and messages as chat completions have them."""

from __future__ import annotations

import base64

from support import Json
from tiny_vision import pixels, png

IMAGE_URL = f"data:image/png;base64,{base64.b64encode(png(pixels(1))).decode()}"
IMAGE_DATA = IMAGE_URL.partition(",")[2]
CALL = {
    "id": "c1", "type": "function", "index": 0,
    "function": {"name": "look", "arguments": '{"a": true}'},
}  # fmt: skip
_REFUSAL = {"type": "refusal", "refusal": "No."}
_THINKING = {"type": "thinking", "thinking": "Hm.", "closed": True, "signature": "somebody"}
MESSAGES: list[Json] = [
    {"role": "system", "content": "Be brief.", "name": "ship"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "Hello!", "prompt_cache_breakpoint": {"mode": "explicit"}}
        ],
    },
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "Hm."},
    {"role": "tool", "content": "7", "tool_call_id": "c1"},
    {"role": "assistant", "content": "It is 7.", "reasoning_content": "Hm."},
    {"role": "assistant", "content": None, "refusal": "No.", "annotations": []},
    {"role": "assistant", "content": [_THINKING, _REFUSAL], "audio": None, "function_call": None},
    {"role": "user", "content": "And now?"},
]
TO_CONTINUE = MESSAGES[:5]
_IMAGE = {"type": "image_url", "image_url": {"url": IMAGE_URL, "detail": "low"}}
LOOK: list[Json] = [
    {"type": "text", "text": "Look!", "prompt_cache_breakpoint": {"mode": "explicit"}},
    {**_IMAGE, "prompt_cache_breakpoint": {"mode": "explicit"}},
]
