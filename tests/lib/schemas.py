"""Random JSON schemas from a seed, with short answers."""

from __future__ import annotations

import random
from typing import Any

Json = dict[str, Any]


def random_schema(seed: int) -> Json:
    """A nested schema with most keywords, partly through references."""
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


def odd_schema(seed: int) -> Json:
    """Unusual combinations and orders of keywords; many are unsatisfiable."""
    maker = _Oddity(random.Random(seed))
    schema = maker.any(3)
    while not isinstance(schema, dict):
        schema = maker.any(3)
    return {**schema, "$defs": maker.shared} if maker.shared else schema


class _Oddity:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.shared: Json = {}

    def any(self, depth: int) -> Any:
        if depth <= 0 or self._rng.random() < 0.35:
            return self._leaf()
        kinds = [self._object, self._object, self._array, self._combined, self._combined, self._ref]
        return self._rng.choice(kinds)(depth - 1)

    def _some(self, chances: dict[str, tuple[float, Any]]) -> Json:
        """Keywords in any order, each with its probability; a value is made only when needed."""
        chosen = [(word, make()) for word, (p, make) in chances.items() if self._rng.random() < p]
        self._rng.shuffle(chosen)
        return dict(chosen)

    def _leaf(self) -> Any:
        rng = self._rng
        low = rng.choice([0, -5, 1.5, -0.001, 100, -1e5, 0.1, 1e-3])
        bounds = {
            rng.choice(["minimum", "exclusiveMinimum"]): low,
            rng.choice(["maximum", "exclusiveMaximum"]): low + rng.choice([1, 0.5, 99.9, 0.01]),
        }
        number = rng.choice(["integer", "number"])
        values = [1, 2.5, "a", "ab", "", None, True, [1], {"a": 1}, {"b": []}, 0, -1, 1e-5]
        patterns = ["^a", "b$", "^[ab]*$", "x|y", "^\\d{2}$", "^[^a-c]+$", "^$", "^[\\[&-]$"]
        formats = ["date", "date-time", "time", "ipv4", "uuid", "ipv6", "hostname", "x-foo"]
        types = ["string", "integer", "null", "boolean", "array", "object"]
        return rng.choice([
            rng.choice([True, False, {}]),
            {"type": "string", "minLength": rng.randint(0, 3), "maxLength": rng.randint(1, 5)},
            {"type": "string", "pattern": rng.choice(patterns)},
            {"type": "string", "format": rng.choice(formats)},
            {"type": number, **bounds},
            {"type": number, "multipleOf": rng.choice([2, 3, 0.5, 0.25, 10])},
            {"enum": rng.sample(values, rng.randint(1, 4))},
            {"const": rng.choice(values)},
            {"type": rng.sample(types, rng.randint(1, 3))},
            {rng.choice(["maxLength", "minimum", "maxItems", "minItems"]): rng.randint(0, 3)},
        ])  # fmt: skip

    def _names(self, most: int) -> list[str]:
        return self._rng.sample(
            ["a", "b", "ab", "x1", "\u00e9", 'q"', ""], self._rng.randint(0, most)
        )

    def _object(self, depth: int) -> Json:
        rng = self._rng
        patterns = rng.sample(["^x", "^[ab]$", "1$"], rng.randint(1, 2))
        return {
            **({"type": "object"} if rng.random() < 0.8 else {}),
            **self._some({
                "properties": (0.8, lambda: {name: self.any(depth) for name in self._names(3)}),
                "required": (0.5, lambda: self._names(2)),
                "additionalProperties": (0.6, lambda: rng.choice([False, self.any(depth)])),
                "patternProperties": (0.2, lambda: {name: self.any(depth) for name in patterns}),
                "minProperties": (0.1, lambda: rng.randint(0, 2)),
                "maxProperties": (0.1, lambda: rng.randint(0, 3)),
            }),
        }  # fmt: skip

    def _array(self, depth: int) -> Json:
        rng = self._rng
        return {
            "type": "array",
            **self._some({
                "items": (0.7, lambda: self.any(depth)),
                "prefixItems": (0.4, lambda: [self.any(depth) for _ in range(2)]),
                "minItems": (0.4, lambda: rng.randint(0, 3)),
                "maxItems": (0.5, lambda: rng.randint(0, 3)),
                "additionalItems": (0.1, lambda: rng.choice([True, False])),
            }),
        }  # fmt: skip

    def _combined(self, depth: int) -> Json:
        word = self._rng.choice(["anyOf", "anyOf", "allOf", "allOf", "oneOf"])
        return self._beside(
            {word: [self.any(depth) for _ in range(self._rng.randint(1, 3))]}, depth
        )

    def _ref(self, depth: int) -> Json:
        name = f"d{len(self.shared)}"
        if self.shared and self._rng.random() < 0.5:
            name = self._rng.choice(list(self.shared))
        else:
            self.shared[name] = {}  # taken
            self.shared[name] = self.any(depth)
        return self._beside({"$ref": f"#/$defs/{name}"}, 0)

    def _beside(self, schema: Json, depth: int) -> Json:
        other = self.any(depth)
        if self._rng.random() < 0.6 or not isinstance(other, dict):
            return schema
        return {**schema, **other} if self._rng.random() < 0.5 else {**other, **schema}


def tangled_schema(seed: int) -> Json:
    """Small definitions that refer to each other a lot; most of them never end."""
    maker = _Tangle(random.Random(seed))
    return {**maker.schema(3), "$defs": {name: maker.any(2) for name in maker.names}}


class _Tangle:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.names = [str(number) for number in range(rng.randint(1, 8))]

    def any(self, depth: int) -> Any:
        if depth > 0 and self._rng.random() < 0.65:
            return self.schema(depth)
        return self._rng.choice([
            self._reference(), self._reference(), True, False, {}, {"type": "string"},
            {"type": "object"}, {"type": "array"}, {"enum": []}, {"const": 1}, self._pattern(),
        ])  # fmt: skip

    def _reference(self) -> Json:
        names = [f"#/$defs/{name}" for name in self.names]
        return {"$ref": self._rng.choice([*names, *names, *names, "#"])}

    def _pattern(self) -> Json:
        return {"pattern": f"p{self._rng.randrange(14)}"}

    def _properties(self, depth: int) -> Json:
        names = self._rng.sample("abcd", self._rng.randint(1, 4))
        return {name: self.any(depth) for name in names}

    def schema(self, depth: int) -> Json:
        rng = self._rng
        types = [
            *["object", "array"] * 3,
            "string",
            ["object", "array"],
            ["object", "null"],
            "number",
        ]
        some = lambda least: [self.any(depth - 1) for _ in range(rng.randint(least, 3))]  # noqa: E731
        chances: dict[str, tuple[float, Any]] = {
            "type": (0.6, lambda: rng.choice(types)),
            "properties": (0.5, lambda: self._properties(depth - 1)),
            "required": (0.5, lambda: [rng.choice("abcde") for _ in range(rng.randint(0, 3))]),
            "additionalProperties": (0.25, lambda: self.any(depth - 1)),
            "patternProperties": (0.1, lambda: {"^x": self.any(depth - 1)}),
            "items": (0.3, lambda: some(0) if rng.random() < 0.2 else self.any(depth - 1)),
            "additionalItems": (0.2, lambda: self.any(depth - 1)),
            "minItems": (0.3, lambda: rng.randint(0, 3)),
            "anyOf": (0.25, lambda: some(0)),
            "oneOf": (0.25, lambda: some(0)),
            "allOf": (0.25, lambda: some(1)),
            "$ref": (0.15, lambda: self._reference()["$ref"]),
            "pattern": (0.08, lambda: self._pattern()["pattern"]),
        }
        made = {word: make() for word, (chance, make) in chances.items() if rng.random() < chance}
        if rng.random() < 0.2 and not isinstance(made.get("items"), list):
            made["prefixItems"] = some(0)
        words = list(made)
        rng.shuffle(words)
        return {word: made[word] for word in words}


def composed_schema(seed: int) -> Json:
    """An object whose members are described by several schemas together: by ``allOf``, ``anyOf``
    and references, often without saying whether further members are allowed."""
    rng = random.Random(seed)
    schema = _composed(rng, 3, "")
    # A definition refers only to later ones: a reference to itself would describe nothing.
    shared = {name: _composed(rng, 2, name) for name in "PQR"}
    return {**schema, "$defs": shared}


def _composed(rng: random.Random, depth: int, name: str) -> Json:
    kind = rng.random()
    if depth == 0 or kind < 0.15:
        return rng.choice([{"type": "string"}, {"type": "integer"}, {}, {"type": "object"}])
    if kind < 0.55:
        schema: Json = {"type": "object"} if rng.random() < 0.7 else {}
        names = rng.sample("abcde", rng.randint(0, 3))
        schema["properties"] = {member: _composed(rng, depth - 1, name) for member in names}
        extras: list[Json] = [
            {"required": rng.sample("abcde", rng.randint(0, 2))},
            {"additionalProperties": rng.choice([True, False, {"type": "integer"}])},
            {"patternProperties": {"^x": {"type": "integer"}}},
            {"minProperties": 1},
            {"anyOf": [_composed(rng, depth - 1, name) for _ in range(2)]},
        ]
        for extra in rng.sample(extras, rng.choice([0, 0, 1, 2])):
            schema |= extra
        return schema
    if kind < 0.8:
        parts = [_composed(rng, depth - 1, name) for _ in range(rng.randint(1, 3))]
        return {rng.choice(["allOf", "anyOf"]): parts}
    later = [other for other in "PQR" if other > name] if name in "PQR" else list("PQR")
    if not later:
        return {"type": "null"}
    beside = {"properties": {"z": {}}} if rng.random() < 0.3 else {}
    return {"$ref": f"#/$defs/{rng.choice(later)}", **beside}
