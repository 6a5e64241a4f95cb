"""The part of a configuration that a spec carries, typed again."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

T = TypeVar("T", bound=BaseModel)


class Settings:
    """Settings of a job by their dotted keys, such as `training.batch_size` or `solver`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Settings as they stand in `spec["config"]`."""
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        """A single value."""
        return self._values[key]

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def section(self, key: str, kind: type[T]) -> T:
        """A whole section of the configuration."""
        return kind.model_validate(self._values[key])
