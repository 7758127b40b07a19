"""Short stories, as plain text and as answers to a request."""

from __future__ import annotations

import random
import re
from typing import Any

from words import ADJECTIVES, ANIMALS, FOODS, NAMES, PLACES, THINGS, WEATHER

OPENINGS = [
    "Once upon a time there was a {adjective} {animal} named {name} who lived near the {place}.",
    "Long ago, in a {place}, there lived a {adjective} {animal} called {name}.",
    "{name} was a {adjective} {animal} who had never left the {place}.",
    "Every morning {name} the {animal} walked from the {place} to the {place2}.",
]
EVENTS = [
    "One day {name} found a {thing} under a tree.",
    "One evening there was {weather}, and {name} could not go home.",
    "Then {friend} the {animal2} came along and asked for help.",
    "{name} heard a strange sound from the {place2} and went to look.",
    "A letter arrived that said: come to the {place2} and bring the {thing}.",
    "The {thing} that {name} loved most was gone.",
]
MIDDLES = [
    '"Do not worry," said {friend}, "we will find a way together."',
    "They walked for a long time and shared some {food} on the way.",
    "At the {place2} they met a {adjective2} {animal2} who knew the answer.",
    "{name} was afraid, but took one step and then another.",
    "The road was long, and there was {weather} all day.",
    "{friend} laughed and showed {name} the {thing}.",
    "Nobody believed it at first, but {name} did not give up.",
]
ENDINGS = [
    "In the end everyone was home again, and {name} slept well.",
    "From that day on {name} and {friend} were friends.",
    "{name} kept the {thing} for ever and told this story to everyone who asked.",
    "And when the sun came up over the {place}, {name} smiled.",
    "So {name} learned that a small light is enough for the next step.",
]
REQUESTS = [
    "Tell me a story about a {animal}.", "Tell me a short story.", "Write a story about {name}.",
    "Write a short story with a {thing}.", "Can you tell me a story about a {animal} and a {thing}?",
    "Tell me a story.", "Write a story about a {animal} named {name}.",
]  # fmt: skip


def _cast(rng: random.Random) -> dict[str, str]:
    name, friend = rng.sample(NAMES, 2)
    animal, animal2 = rng.sample(ANIMALS, 2)
    place, place2 = rng.sample(PLACES, 2)
    adjective, adjective2 = rng.sample(ADJECTIVES, 2)
    return {
        "name": name, "friend": friend, "animal": animal, "animal2": animal2, "place": place,
        "place2": place2, "adjective": adjective, "adjective2": adjective2,
        "thing": rng.choice(THINGS), "food": rng.choice(FOODS), "weather": rng.choice(WEATHER),
    }  # fmt: skip


def _tell(rng: random.Random, cast: dict[str, str]) -> str:
    sentences = [rng.choice(OPENINGS)]
    for _ in range(rng.choice((1, 1, 2))):
        sentences += rng.sample(EVENTS, 1) + rng.sample(MIDDLES, rng.randint(1, 3))
    sentences.append(rng.choice(ENDINGS))
    # Use no sentence twice.
    return _articles(" ".join(dict.fromkeys(sentences)).format(**cast))


def _articles(text: str) -> str:
    """Correct the articles: an otter, a fox."""
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def story(rng: random.Random) -> dict[str, Any]:
    """A story: plain text in two of five cases, else an answer."""
    cast = _cast(rng)
    text = _tell(rng, cast)
    if rng.random() < 0.4:
        return {"kind": "story", "text": text}
    request = _articles(rng.choice(REQUESTS).format(**cast))
    return {
        "kind": "story",
        "messages": [{"role": "user", "content": request}, {"role": "assistant", "content": text}],
    }
