"""The sample values of one endpoint, and the requests that they make."""

from __future__ import annotations

from dataclasses import dataclass, field

from support import Json


@dataclass(frozen=True)
class Full:
    """The fields and sample values of one endpoint.

    Attributes:
        path: path of the endpoint, called with POST.
        required: fields that every request has.
        samples: the optional fields that every request can have together.
        alternatives: lists of field sets; each request contains one set of each list.
        values: values of the parameters in the path.
    """

    path: str
    required: Json
    samples: Json = field(default_factory=dict)
    alternatives: tuple[list[Json], ...] = ()
    values: Json = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The path with the values of its parameters."""
        return self.path.format(**self.values)

    def bodies(self) -> list[Json]:
        """The request bodies: as many as the longest list of alternatives."""
        made = []
        for number in range(max((len(options) for options in self.alternatives), default=1)):
            body = {**self.required, **self.samples}
            for options in self.alternatives:
                body |= options[number % len(options)]
            made.append(body)
        return made
