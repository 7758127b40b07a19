"""Tool calls: functions in the system prompt, calls, and answers that report the results."""

from __future__ import annotations

import random
from typing import Any

from words import CITIES, DAYS, FOODS, NAMES, SMALL_WORDS, THINGS

Values = dict[str, Any]

# name, description, parameters, questions, a result, the answer about it.
FUNCTIONS: list[tuple[str, str, dict[str, str], list[str], str, str]] = [
    ("get_weather", "Get the weather of a city", {"city": "string"},
     ["What is the weather in {city}?", "How is the weather in {city}?", "Weather in {city}?",
      "Is it warm in {city}?"],
     '{{"city": "{city}", "degrees": {n}}}', "It is {n} degrees in {city}."),
    ("add", "Add two numbers", {"a": "integer", "b": "integer"},
     ["Add {a} and {b}.", "What is the sum of {a} and {b}?", "Use the tool to add {a} and {b}."],
     "{a_plus_b}", "The sum is {a_plus_b}."),
    ("set_timer", "Start a timer", {"minutes": "integer"},
     ["Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.",
      "Wake me in {minutes} minutes."],
     '{{"ok": true}}', "The timer is set for {minutes} minutes."),
    ("send_message", "Send a message to a person", {"to": "string", "text": "string"},
     ["Send {to} the message: {text}", "Write to {to}: {text}", "Tell {to}: {text}"],
     '{{"sent": true}}', "The message to {to} is sent."),
    ("search", "Search the library", {"query": "string"},
     ["Search for {query}.", "Find something about {query}.", "Look up {query}."],
     '{{"found": {n}}}', "I found {n} entries about {query}."),
    ("get_time", "Get the local time of a city", {"city": "string"},
     ["What time is it in {city}?", "Tell me the time in {city}."],
     '{{"time": "{n}:30"}}', "It is {n}:30 in {city}."),
    ("order_food", "Order food", {"item": "string", "amount": "integer"},
     ["Order {amount} portions of {item}.", "I want {amount} times {item}, please.",
      "Get me {amount} of {item}."],
     '{{"ordered": true}}', "I ordered {amount} portions of {item}."),
    ("book_table", "Book a table", {"day": "string", "people": "integer"},
     ["Book a table for {people} people on {day}.", "A table on {day} for {people}, please."],
     '{{"booked": true}}', "Your table for {people} people on {day} is booked."),
    ("turn_light", "Switch a light", {"room": "string", "on": "boolean"},
     ["Turn the light in the {room} {on_word}.", "Switch {on_word} the light in the {room}."],
     '{{"ok": true}}', "The light in the {room} is {on_word}."),
    ("get_price", "Get the price of a thing", {"item": "string"},
     ["What does a {item} cost?", "How much is the {item}?", "Price of the {item}?"],
     '{{"price": {n}}}', "The {item} costs {n} coins."),
]  # fmt: skip
ROOMS = "kitchen cellar hall office bedroom garage".split()


def _values(rng: random.Random) -> Values:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    on = rng.random() < 0.5
    query = rng.choice((rng.choice(THINGS) + "s", rng.choice(CITIES), rng.choice(SMALL_WORDS)))
    return {
        "city": rng.choice(CITIES), "a": a, "b": b, "a_plus_b": a + b, "query": query,
        "minutes": rng.randint(1, 60), "to": rng.choice(NAMES), "n": rng.randint(1, 30),
        "text": " ".join(rng.sample(SMALL_WORDS, rng.randint(1, 4))), "on": on,
        "on_word": "on" if on else "off", "item": rng.choice(FOODS + THINGS),
        "amount": rng.randint(1, 9), "day": rng.choice(DAYS), "people": rng.randint(2, 12),
        "room": rng.choice(ROOMS),
    }  # fmt: skip


def describe(name: str, description: str, parameters: dict[str, str]) -> dict[str, Any]:
    """A function as the OpenAI API describes it."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object", "properties": properties, "required": list(parameters),
            },
        },
    }  # fmt: skip


def _rename(rng: random.Random, name: str) -> str:
    """Vary the name of a function, so that the model copies it and does not memorise it."""
    if rng.random() < 0.6:
        return name
    tail = rng.choice(("_v2", "_now", "_local", "_tool", "_quick"))
    return rng.choice((name + tail, name.split("_")[-1] + tail, "do_" + name, "my_" + name))


def tool_use(rng: random.Random) -> dict[str, Any]:
    """A call, in half of the cases with its result and the answer about it; or no call."""
    chosen = rng.sample(FUNCTIONS, rng.choice((1, 1, 2, 3)))
    names = [_rename(rng, function[0]) for function in chosen]
    tools = [describe(n, f[1], f[2]) for n, f in zip(names, chosen, strict=True)]
    which = rng.randrange(len(chosen))
    _, _, parameters, questions, result, said = chosen[which]
    values = _values(rng)
    if rng.random() < 0.12:
        question, answer = rng.choice((
            ("Hello!", "Hello! How can I help you?"), ("Thank you!", "You are welcome."),
            ("Who are you?", "I am OffGrid, a tiny language model on this very machine."),
        ))  # fmt: skip
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"kind": "no-tool", "tools": tools, "messages": messages}
    call = {"name": names[which], "arguments": {key: values[key] for key in parameters}}
    messages = [
        {"role": "user", "content": rng.choice(questions).format(**values)},
        {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
    ]
    if rng.random() < 0.4:
        messages += [
            {"role": "tool", "content": result.format(**values)},
            {"role": "assistant", "content": said.format(**values)},
        ]
        return {"kind": "tool-result", "tools": tools, "messages": messages}
    return {"kind": "tool", "tools": tools, "messages": messages}
