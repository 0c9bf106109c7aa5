"""What settings are made of: fields that are checked once and do not change, of which names and digests are made."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_serializer


class Settings(BaseModel):
    """Named fields and no others, frozen.

    later: fields that came after the first stored networks and frozen rules. Where they have their default they are not
    written, so that what is named after the rest keeps its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_before(self, dump: Any) -> dict[str, Any]:
        default = {name: type(self).model_fields[name].default for name in self.later}
        return {k: v for k, v in dump(self).items() if k not in default or v != default[k]}
