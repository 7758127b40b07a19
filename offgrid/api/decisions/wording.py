"""How a question is put to the model, and what its answers are called.

Models prefer what stands first, or last, in a list. So each question is put twice, with its options
in one order and in the opposite one, and the probabilities are averaged. The first order does not
depend on the order in the request, unless that has a meaning: levels are listed from the lowest to
the highest. So the order in which a request lists its choices changes nothing.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from offgrid.api.decisions.request import Choice, Predicate, Question, Score, text_of

YES, NO = "Yes", "No"


class Wording(NamedTuple):
    """One way to put a question.

    Attributes:
        instructions: the client's text, unless it is already part of the prompt.
        task: what follows the instructions: the options, and how to answer.
        answers: the texts of the options.
        places: for each of ``answers`` the index of its option in the question.
    """

    instructions: str
    task: str
    answers: tuple[str, ...]
    places: tuple[int, ...]

    @property
    def text(self) -> str:
        """The whole question."""
        return f"{self.instructions}\n\n{self.task}" if self.instructions else self.task


def wordings(question: Question, *, shown: bool = False) -> tuple[Wording, Wording]:
    """Return the two ways to put a question.

    Args:
        question: it.
        shown: whether its instructions are already part of the prompt.
    """
    instructions = "" if shown else text_of(question.instructions).strip()
    if isinstance(question, Predicate):
        return (
            Wording(instructions, f"Is this true? Answer {YES} or {NO}.", (YES, NO), (0, 1)),
            Wording(instructions, f"Is this true? Answer {NO} or {YES}.", (NO, YES), (1, 0)),
        )
    if isinstance(question, Choice):
        return _of_choice(instructions, question)
    return _of_score(instructions, question)


def _of_choice(instructions: str, question: Choice) -> tuple[Wording, Wording]:
    texts = _written([option.value for option in question.choices])
    places = sorted(range(len(texts)), key=texts.__getitem__)
    lines = [
        _line(text, option.description)
        for text, option in zip(texts, question.choices, strict=True)
    ]

    def listed(order: list[int]) -> Wording:
        options = "\n".join(lines[place] for place in order)
        task = f"Options:\n{options}\n\nAnswer with one of the options, and nothing else."
        return Wording(instructions, task, tuple(texts[place] for place in order), tuple(order))

    return listed(places), listed(places[::-1])


def _of_score(instructions: str, question: Score) -> tuple[Wording, Wording]:
    texts = _written([level.label for level in question.levels])
    places = [*range(len(texts))]
    lines = [
        _line(text, level.description) for text, level in zip(texts, question.levels, strict=True)
    ]

    def listed(order: list[int], how: str) -> Wording:
        levels = "\n".join(lines[place] for place in order)
        task = f"Levels, {how}:\n{levels}\n\nAnswer with one of the levels, and nothing else."
        return Wording(instructions, task, tuple(texts[place] for place in order), tuple(order))

    return listed(places, "from lowest to highest"), listed(places[::-1], "from highest to lowest")


def _written(values: list[str | bool]) -> list[str]:
    """Return values as texts: all of them as JSON if some could be misread otherwise."""
    plain = [value if isinstance(value, str) else json.dumps(value) for value in values]
    misread = any(text != text.strip() or "\n" in text for text in plain)
    if misread or len(set(plain)) < len(plain):
        return [json.dumps(value, ensure_ascii=False) for value in values]
    return plain


def _line(text: str, description: str | None) -> str:
    return f"- {text}: {description.strip()}" if description else f"- {text}"
