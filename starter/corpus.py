"""The corpus: random conversations and short texts from our own sentences.

``samples(seed)`` is an endless stream of dicts: ``kind`` and either ``text`` or ``messages`` (and
``tools``). The same seed gives the same stream. All words in it were written for this project.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import facts
import stories
import tooluse
from words import (
    ANIMALS,
    CITIES,
    COLOURS,
    DAYS,
    FOODS,
    HOBBIES,
    JOBS,
    MONTHS,
    NAMES,
    PLACES,
    SMALL_WORDS,
    THINGS,
)  # fmt: skip

Sample = dict[str, Any]


def user(text: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """An answer."""
    return {"role": "assistant", "content": text}


def turn(kind: str, question: str, answer: str, system: str | None = None) -> Sample:
    """A conversation of one question and one answer."""
    head = [{"role": "system", "content": system}] if system else []
    return {"kind": kind, "messages": [*head, user(question), assistant(answer)]}


SYSTEMS = [
    "You are a helpful assistant.", "You are OffGrid.", "Be brief.", "Answer politely.",
    "You are a friendly assistant on a ship.", "You help people who have no network.",
]  # fmt: skip


def maybe_system(rng: random.Random) -> str | None:
    return rng.choice(SYSTEMS) if rng.random() < 0.3 else None


def vary(rng: random.Random, text: str) -> str:
    """Vary a question as people do: case, full stops, "please"."""
    roll = rng.random()
    if roll < 0.12:
        text = text[0].lower() + text[1:]
    elif roll < 0.18:
        text = text.lower()
    if rng.random() < 0.1:
        text = text.rstrip("?.!")
    elif rng.random() < 0.06:
        text = "Please tell me: " + text[0].lower() + text[1:]
    return text


def fact(rng: random.Random) -> Sample:
    questions, answers = rng.choice(facts.OFFGRID if rng.random() < 0.65 else facts.GENERAL)
    return turn("fact", vary(rng, rng.choice(questions)), rng.choice(answers), maybe_system(rng))


def small_talk(rng: random.Random) -> Sample:
    questions, answers = rng.choice(facts.SMALL_TALK)
    return turn("talk", vary(rng, rng.choice(questions)), rng.choice(answers), maybe_system(rng))


def unknown(rng: random.Random) -> Sample:
    subject = rng.choice(facts.UNKNOWN_SUBJECTS).format(
        name=rng.choice(NAMES), city=rng.choice(CITIES), thing=rng.choice(THINGS),
        animal=rng.choice(ANIMALS), food=rng.choice(FOODS),
    )  # fmt: skip
    return turn("unknown", vary(rng, subject), rng.choice(facts.UNKNOWN_ANSWERS), maybe_system(rng))


def _problem(rng: random.Random) -> tuple[str, str, int]:
    """Return the left side in symbols, the same in words, and the result."""
    roll = rng.random()
    high = 9 if rng.random() < 0.25 else 99
    a, b = rng.randint(0, high), rng.randint(0, high)
    if roll < 0.5:
        return f"{a} + {b}", f"{a} plus {b}", a + b
    if roll < 0.85:
        a, b = max(a, b), min(a, b)
        return f"{a} - {b}", f"{a} minus {b}", a - b
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    return f"{a} * {b}", f"{a} times {b}", a * b


def arithmetic(rng: random.Random) -> Sample:
    messages = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        symbols, words, result = _problem(rng)
        asked = rng.choice((symbols, symbols, words, symbols.replace(" ", "")))
        question = rng.choice(
            ("What is {}?", "{}", "{} =", "Calculate {}.", "How much is {}?", "{}?", "Compute {}")
        ).format(asked)
        messages += [user(question), assistant(f"{symbols} = {result}")]
    return {"kind": "arithmetic", "messages": messages}


def word_problem(rng: random.Random) -> Sample:
    name, thing = rng.choice(NAMES), rng.choice(("apples", "coins", "books", "stones", "letters"))
    a, b = rng.randint(1, 50), rng.randint(1, 49)
    if rng.random() < 0.5:
        question = (
            f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?"
        )
        return turn("arithmetic", question, f"{a} + {b} = {a + b}, so {name} has {a + b} {thing}.")
    a, b = max(a, b) + 1, min(a, b)
    question = f"{name} has {a} {thing} and gives away {b}. How many are left?"
    return turn("arithmetic", question, f"{a} - {b} = {a - b}, so {a - b} {thing} are left.")


def json_answer(rng: random.Random) -> Sample:
    name, city, age = rng.choice(NAMES), rng.choice(CITIES), rng.randint(5, 95)
    job, colour = rng.choice(JOBS), rng.choice(COLOURS)
    values: dict[str, tuple[str, str]] = {
        "name": (f"{name}", f'"{name}"'),
        "age": (f"is {age} years old", f"{age}"),
        "city": (f"lives in {city}", f'"{city}"'),
        "job": (f"works as a {job}", f'"{job}"'),
        "colour": (f"likes {colour}", f'"{colour}"'),
    }
    keys = ["name", *rng.sample(["age", "city", "job", "colour"], rng.randint(1, 3))]
    sentence = f"{name} " + ", ".join(values[key][0] for key in keys[1:-1])
    sentence += (" and " if len(keys) > 2 else "") + values[keys[-1]][0] + "."
    wanted = ", ".join(keys)
    question = rng.choice((
        f"{sentence} Answer as JSON with the keys {wanted}.",
        f"Turn this into JSON with the keys {wanted}: {sentence}",
        f"Give me JSON ({wanted}) for: {sentence}",
    ))  # fmt: skip
    body = ", ".join(f'"{key}": {values[key][1]}' for key in keys)
    return turn("json", question, "{" + body + "}", maybe_system(rng))


def json_list(rng: random.Random) -> Sample:
    pool, noun = rng.choice(
        ((COLOURS, "colours"), (ANIMALS, "animals"), (FOODS, "foods"), (CITIES, "cities"))
    )
    n = rng.randint(2, 5)
    words = rng.sample(pool, n)
    body = ", ".join(f'"{word}"' for word in words)
    question = f"List {n} {noun} as JSON with the key {noun}."
    return turn("json", question, f'{{"{noun}": [{body}]}}', maybe_system(rng))


def listing(rng: random.Random) -> Sample:
    roll = rng.random()
    if roll < 0.45:
        a = rng.randint(0, 60)
        b = a + rng.randint(3, 40)
        asked = rng.choice((f"Count from {a} to {b}.", f"Please count from {a} to {b}"))
        return turn("list", asked, ", ".join(str(i) for i in range(a, b + 1)) + ".")
    if roll < 0.6:
        pool, noun = rng.choice(((DAYS, "days of the week"), (MONTHS, "months of the year")))
        return turn("list", f"List the {noun}.", ", ".join(pool) + ".")
    pool, noun = rng.choice(
        ((COLOURS, "colours"), (ANIMALS, "animals"), (FOODS, "foods"), (CITIES, "cities"))
    )
    n = rng.randint(2, 8)
    lines = "\n".join(f"{i + 1}. {word}" for i, word in enumerate(rng.sample(pool, n)))
    return turn("list", f"Name {n} {noun}.", lines)


def echo(rng: random.Random) -> Sample:
    words = " ".join(rng.sample(SMALL_WORDS + THINGS + PLACES + NAMES, rng.randint(1, 6)))
    question = rng.choice(("Repeat: {}", "Say: {}", "Repeat after me: {}")).format(words)
    if rng.random() < 0.3:
        word = words.split()[0]
        return turn("echo", f"Say only the word {word}.", word)
    return turn("echo", question, words)


def memory(rng: random.Random) -> Sample:
    """A later turn asks about something said in the first turn."""
    name, city, hobby, job = (rng.choice(x) for x in (NAMES, CITIES, HOBBIES, JOBS))
    said, asked, answer = rng.choice((
        (f"My name is {name}.", "What is my name?", f"Your name is {name}."),
        (f"I am {name}.", "What am I called?", f"You are called {name}."),
        (f"I live in {city}.", "Where do I live?", f"You live in {city}."),
        (f"I like {hobby}.", "What do I like?", f"You like {hobby}."),
        (f"I am a {job}.", "What is my job?", f"You are a {job}."),
    ))  # fmt: skip
    greeting = rng.choice((
        f"Nice to meet you, {name}!" if name in said else "Good to know!", "Thank you, noted.",
    ))  # fmt: skip
    middle: list[dict[str, str]] = []
    if rng.random() < 0.5:
        middle = rng.choice((arithmetic, small_talk, echo))(rng)["messages"]
        middle = [m for m in middle if m["role"] != "system"]
    return {
        "kind": "memory",
        "messages": [user(said), assistant(greeting), *middle, user(asked), assistant(answer)],
    }


KINDS: list[tuple[float, Callable[[random.Random], Sample]]] = [
    (0.13, fact), (0.09, small_talk), (0.02, unknown), (0.29, arithmetic), (0.04, word_problem),
    (0.06, json_answer), (0.02, json_list), (0.05, listing), (0.04, echo), (0.04, memory),
    (0.10, stories.story), (0.12, tooluse.tool_use),
]  # fmt: skip


def samples(seed: int) -> Iterator[Sample]:
    """Yield samples without end."""
    rng = random.Random(seed)
    weights = [weight for weight, _ in KINDS]
    makers = [maker for _, maker in KINDS]
    while True:
        yield rng.choices(makers, weights)[0](rng)
