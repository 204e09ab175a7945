"""An example for every body of the API's description, made from its schema and the names of its fields.

Made, not written by hand: a route that is new has one as soon as it has a schema, and none can grow stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

Schema = Mapping[str, Any]
_PREFIX = "#/components/schemas/"
_JOB = "ftjob-Xb4Tq9sLw2Rn7Vc1Kd8Jm5Zp"
_FILE = "file-Hk3Wm8Yt1Qz6Px9Bn4Rv7Lcd"
_MODEL = "ft:attune-demo:default:tickets:Zp8Jm5Kd"
_ALIAS = "ft:gpt-4o-mini-2024-07-18:acme:tickets:Zp8Jm5Kd"
_TIME = 1_767_225_600

# What whole requests look like, where a user has choices to make
_WHOLE: dict[str, Any] = {
    "CreateJob": {
        "model": "attune-demo",
        "training_file": _FILE,
        "suffix": "tickets",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
    },
    "AliasCreate": {"id": _ALIAS, "model": _MODEL},
    "AliasChange": {"model": _MODEL},
    "ChatRequest": {"model": _MODEL, "messages": [{"role": "user", "content": "Where is my order?"}]},
}
# Schema.field first, then field
_VALUES: dict[str, Any] = {
    "FileObject.id": _FILE,
    "FileObject.status": "processed",
    "FileObject.purpose": "fine-tune",
    "JobObject.id": _JOB,
    "JobObject.status": "succeeded",
    "JobObject.error": None,
    "EventObject.id": "ftevent-Qz6Px9Bn4Rv7LcdHk3Wm8Yt1",
    "EventObject.level": "info",
    "EventObject.type": "message",
    "EventObject.data": {},
    "CheckpointObject.id": "ftckpt_Rn7Vc1Kd8Jm5ZpXb4Tq9sLw2",
    "ModelObject.id": _MODEL,
    "ModelAttune.alias_of": None,
    "AliasObject.id": _ALIAS,
    "AliasObject.model": _MODEL,
    "AliasObject.updated_at": _TIME,
    "ModelAttune.status": "ready",
    "BaseModelObject.id": "attune-demo",
    "BaseModelObject.status": "ready",
    "BaseModelObject.source": "folder",
    "KeyObject.id": "key_Vc1Kd8Jm5ZpX",
    "Problem.code": "invalid_value",
    "Problem.param": "suffix",
    "Problem.message": "Invalid value for 'suffix': string should have at most 64 characters.",
    "Problem.type": "invalid_request_error",
    "address": "http://gpu-1:8001",
    "base_model": "attune-demo",
    "bytes": 48_213,
    "code": "invalid_value",
    "created": _TIME,
    "created_at": _TIME,
    "device": "cuda",
    "expires_at": None,
    "estimated_finish": None,
    "file_id": _FILE,
    "filename": "tickets.jsonl",
    "fine_tuned_model": _MODEL,
    "fine_tuned_model_checkpoint": f"{_MODEL}:ckpt-step-64",
    "fine_tuning_job_id": _JOB,
    "finished_at": _TIME + 60,
    "first_id": None,
    "job": _JOB,
    "last_id": None,
    "last_used_at": _TIME,
    "licence": "apache-2.0",
    "location": "attune-demo",
    "message": "Step 64/128: training loss=0.41",
    "model": "attune-demo",
    "name": "tickets",
    "organization_id": "proj_Kd8Jm5ZpXb4T",
    "owned_by": "default",
    "path": "adapter_model.safetensors",
    "planned_memory_bytes": {"weights": 61_865_984, "activations": 81_788_928, "runtime": 99_614_720},
    "project_id": "proj_Kd8Jm5ZpXb4T",
    "result_files": [_FILE],
    "seed": 42,
    "slug": "default",
    "started_at": _TIME,
    "status_details": None,
    "step": 64,
    "step_number": 64,
    "training_file": _FILE,
    "user_provided_suffix": "tickets",
    "validation_file": None,
}


def example(schema: Schema, schemas: Mapping[str, Schema], *, required_only: bool = False) -> Any:
    """A value that is valid under `schema`; `schemas` are the description's own, by name.

    `required_only`: of an object whose other fields a user leaves out until they are needed.
    """
    return _value(schema, "", schemas, required_only)


def _value(schema: Schema, where: str, schemas: Mapping[str, Schema], required_only: bool) -> Any:
    """`where`: Schema.field."""
    reference = schema.get("$ref")
    if reference is not None:
        name = str(reference).removeprefix(_PREFIX)
        return _WHOLE[name] if name in _WHOLE else _value(schemas[name], name, schemas, required_only)
    for key in (where, where.rpartition(".")[2]):
        if key in _VALUES and _fits(schema, _VALUES[key]):
            return _VALUES[key]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("default") is not None:
        return schema["default"]
    for arm in schema.get("anyOf", schema.get("oneOf", ())):
        if arm.get("type") != "null":
            return _value(arm, where, schemas, required_only)
    return _of_type(schema, where, schemas, required_only)


def _of_type(schema: Schema, where: str, schemas: Mapping[str, Schema], required_only: bool) -> Any:
    kind = schema.get("type")
    if kind == "object":
        fields = cast(Mapping[str, Schema], schema.get("properties", {}))
        required = schema.get("required", ())
        owner = where.rpartition(".")[2]
        return {
            name: _value(field, f"{owner}.{name}", schemas, required_only)
            for name, field in fields.items()
            if name in required or not required_only
        }
    if kind == "array":
        return [_value(schema.get("items", {}), where, schemas, required_only)]
    if kind in ("integer", "number"):
        return _number(schema)
    if kind == "boolean":
        return False
    return "a" * max(6, int(schema.get("minLength", 0)))


def _number(schema: Schema) -> int | float:
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum", least))
    if least is None:
        return 1
    if schema["type"] == "integer":
        return int(least) + ("exclusiveMinimum" in schema)
    return (least + most) / 2 if most > least else least + 1.0


def _fits(schema: Schema, value: object) -> bool:
    """Is `value` of one of the schema's kinds? A name such as `model` may mean a text here and an object there."""
    arms = [arm.get("type") for arm in schema.get("anyOf", (schema,))]
    if "const" in schema or "enum" in schema:
        return False
    if value is None:
        return "null" in arms
    kinds: dict[type, str] = {str: "string", int: "integer", list: "array", dict: "object"}
    return kinds[type(value)] in arms
