"""The part of a configuration that a spec carries, typed again."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from deqpipe.errors import UserError

T = TypeVar("T", bound=BaseModel)
V = TypeVar("V")


class MissingSettingError(UserError):
    """A job reads a setting that its spec does not have.

    Attributes:
        key: its dotted key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"spec lacks the setting {key}; `deqpipe spec` prints a whole one")
        self.key = key


class Settings:
    """Settings of a job by their dotted keys, such as `training.batch_size` or `solver`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Settings as they stand in `spec["config"]`."""
        self._values = dict(values)

    def __getitem__(self, key: str) -> Any:
        """A single value.

        Raises:
            MissingSettingError: the spec has no such key.
        """
        if key not in self._values:
            raise MissingSettingError(key)
        return self._values[key]

    def __contains__(self, key: str) -> bool:
        """Whether the job depends on it."""
        return key in self._values

    def section(self, key: str, kind: type[T]) -> T:
        """A whole section of the configuration.

        Raises:
            UserError: the spec has no such section, or not as the configuration defines it.
        """
        return self._parsed(key, kind.model_validate)

    def variant(self, key: str, parse: Callable[[Any], V]) -> V:
        """A section of which there are several variants, parsed by such as `deqpipe.config.parse_solver`.

        Raises:
            UserError: the spec has no such section, or not as the configuration defines it.
        """
        return self._parsed(key, parse)

    def _parsed(self, key: str, parse: Callable[[Any], V]) -> V:
        try:
            return parse(self[key])
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (key, *first["loc"])))
            raise UserError(f"spec: {where} is {first['input']!r}: {first['msg'].lower()}") from None
