"""Models: what there is, what is loaded, what stays."""

from __future__ import annotations

from offgrid.api.anthropic import models as anthropic_models
from offgrid.api.loaded import LoadedList
from offgrid.api.models import shapes as models
from offgrid.api.openapi.operations.bodies import OF_A_MODEL
from offgrid.api.openapi.operations.operation import Body, Operation

_MODEL = "/v1/models/{model}"

OPERATIONS = (
    Operation(
        "get",
        "/v1/models",
        "All models; in Anthropic's form for requests with the header anthropic-version",
        (models.ModelList, models.DetailedModelList, anthropic_models.ModelPage),
        query=(*anthropic_models.QUERY, "details"),
    ),
    Operation(
        "get",
        _MODEL,
        "One model; in Anthropic's form for requests with the header anthropic-version",
        (models.ModelDetails, anthropic_models.ListedModel),
        errors=(404,),
    ),
    Operation("get", "/v1/loaded", "The models that are loaded", (LoadedList,)),
    Operation(
        "post",
        f"{_MODEL}/load",
        "Loads a model",
        (models.ModelDetails,),
        models.LOAD_EVENTS,
        body=Body((models.LoadRequest,), foreign=True, optional=True),
        errors=OF_A_MODEL,
        named=True,
        later=True,
    ),
    Operation(
        "post",
        f"{_MODEL}/unload",
        "Unloads a model when no request uses it any more",
        (models.ModelDetails,),
        body=Body((models.UnloadRequest,), foreign=True, optional=True),
        errors=OF_A_MODEL,
        later=True,
    ),
    Operation(
        "post",
        f"{_MODEL}/pin",
        "Lets a model be loaded at every start, and stay loaded",
        (models.ModelDetails,),
        body=Body((models.PinRequest,), foreign=True, optional=True),
        errors=(404, 413),
    ),
    Operation(
        "post",
        f"{_MODEL}/unpin",
        "Lets a model be unloaded like others",
        (models.ModelDetails,),
        body=Body((models.PinRequest,), foreign=True, optional=True),
        errors=(404, 409, 413),
    ),
    Operation(
        "post",
        f"{_MODEL}/default",
        "Lets a model answer requests that name none",
        (models.ModelDetails,),
        body=Body((models.DefaultRequest,), foreign=True, optional=True),
        errors=(404, 409, 413),
    ),
    Operation(
        "post",
        f"{_MODEL}/remove",
        "Deletes the files of a model",
        (models.RemovedModel,),
        body=Body((models.RemoveRequest,), foreign=True),
        errors=(404, 409, 413, 503),
    ),
)
