"""The sampling lab."""

from __future__ import annotations

from offgrid.api.fields.inert import IGNORED
from offgrid.api.fields.sampling import ALIASES, SamplingFields
from offgrid.api.lab.request import LabRequest
from offgrid.api.lab.shapes import LabDistribution
from offgrid.api.openapi.operations.bodies import OF_A_MODEL, SAMPLING, SEED
from offgrid.api.openapi.operations.operation import Body, Operation

OPERATIONS = (
    Operation(
        "post",
        "/v1/lab/distribution",
        "What each step of sampling does to the distribution of the next token",
        (LabDistribution,),
        body=Body(
            (LabRequest,),
            ignored=IGNORED,
            aliases=ALIASES,
            foreign=True,
            replaced={
                name: SAMPLING[name] for name in ("seed", "logit_bias", "dry_sequence_breakers")
            },
            hidden=LabRequest.PARSED,
            more=(SamplingFields,),
        ),
        errors=OF_A_MODEL,
        headers=SEED,
    ),
)
