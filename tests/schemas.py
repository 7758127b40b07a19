"""Random JSON schemas from a seed, whose answers are short."""

from __future__ import annotations

import random
from typing import Any

Json = dict[str, Any]


def random_schema(seed: int) -> Json:
    """A nested schema of most keywords, some of it behind references."""
    return _Maker(random.Random(seed)).document()


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._shared: Json = {}

    def document(self) -> Json:
        schema = self._object(3) if self._rng.random() < 0.7 else self._any(3)
        return {**schema, "$defs": self._shared} if self._shared else schema

    def _any(self, depth: int) -> Json:
        kinds = [self._string, self._integer, self._number, self._enum, self._const, self._simple]
        if depth > 0:
            kinds += [self._object, self._array, self._tuple, self._either, self._referred] * 2
        return self._rng.choice(kinds)(depth)

    def _string(self, _: int) -> Json:
        return self._rng.choice([
            {"type": "string", "maxLength": self._rng.randint(0, 12)},
            {"type": "string", "minLength": 2, "maxLength": 6},
            {"type": "string", "pattern": "^[a-c]{1,3}-[0-9]{2}$"},
            {"type": "string", "pattern": "^(yes|no|\\u00e9t\\u00e9)$"},
            {"type": "string", "format": self._rng.choice(["date", "time", "ipv4", "uuid"])},
        ])  # fmt: skip

    def _integer(self, _: int) -> Json:
        low = self._rng.randint(-200, 200)
        schema: Json = {
            "type": "integer",
            "minimum": low,
            "maximum": low + self._rng.randint(9, 99),
        }
        if self._rng.random() < 0.3:
            schema["multipleOf"] = self._rng.choice([2, 5, 7])
        return schema

    def _number(self, _: int) -> Json:
        return self._rng.choice([
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "number", "exclusiveMinimum": -2.5, "exclusiveMaximum": 10},
        ])  # fmt: skip

    def _enum(self, _: int) -> Json:
        values = [1, -2.5, "a", 'b "quoted"', None, True, [1, "x"], {"k": "\u00fc"}, ""]
        return {"enum": self._rng.sample(values, self._rng.randint(1, 5))}

    def _const(self, _: int) -> Json:
        return {"const": self._rng.choice([7, "fixed\n", False, {"a": [1, {"b": None}]}])}

    def _simple(self, _: int) -> Json:
        return {"type": self._rng.choice(["boolean", "null", ["boolean", "null"]])}

    def _object(self, depth: int) -> Json:
        names = self._rng.sample(["id", "name", "x y", "q\"", "\u00f6", "tags", "next"],
                                 self._rng.randint(0, 4))  # fmt: skip
        properties = {name: self._any(depth - 1) for name in names}
        required = [name for name in names if self._rng.random() < 0.7]
        return {
            "type": "object", "properties": properties, "required": required,
            "additionalProperties": False, "description": "an object",
        }  # fmt: skip

    def _array(self, depth: int) -> Json:
        low = self._rng.randint(0, 2)
        high = low + self._rng.randint(0, 2)
        return {"type": "array", "items": self._any(depth - 1), "minItems": low, "maxItems": high}

    def _tuple(self, depth: int) -> Json:
        items = [self._any(depth - 1) for _ in range(2)]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}

    def _either(self, depth: int) -> Json:
        return {"anyOf": [self._any(depth - 1) for _ in range(self._rng.randint(1, 3))]}

    def _referred(self, depth: int) -> Json:
        name = f"shared/{len(self._shared)}"
        self._shared[name] = {}  # taken
        self._shared[name] = self._any(depth - 1)
        return {"$ref": f"#/$defs/{name.replace('/', '~1')}"}
