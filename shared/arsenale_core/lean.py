"""Answers of tools without what says nothing."""

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class Lean(BaseModel):
    """An answer without the empty ones of its optional fields: a model pays for every one."""

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        needed = {name for name, field in type(self).model_fields.items() if field.is_required()}
        said = handler(self)
        return {k: v for k, v in said.items() if k in needed or v not in (None, [], {}, "")}
