"""What a comparison is asked for: a YAML file, and `key=value` over it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from m4oe.config import Config, config_keys, load_config
from m4oe.errors import UserError, from_validation
from m4oe.study import Facts


class Comparison(Facts):
    """What is compared, and how.

    variants: names or groups of compare.variants, none: what suits the tasks · own: further ones, {name: overrides of
    the config} · seeds: of training; splits are those of the studies · config: of all trainings, a file or what would
    stand in one · learning_rates: tried for every variant alike with the first seed, the best on validation goes on;
    none: the config's own · jobs: processes at a time, none: one a core · reference: the variant to which all others
    are compared, none: the first · resamples: of patients.
    """

    variants: tuple[str, ...] = ()
    own: dict[str, tuple[str, ...]] = Field(default={})
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    config: str | dict[str, Any] = Field(default={})
    learning_rates: tuple[float, ...] = ()
    jobs: int | None = Field(default=None, ge=1)
    reference: str | None = None
    resamples: int = Field(default=5000, ge=100)
    overrides: tuple[str, ...] = Field(default=(), description="of the config, as on the command line")

    @field_validator("variants", "learning_rates", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | float) else value

    @field_validator("seeds", "learning_rates", "variants")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"{list(values)} names one twice")
        return values

    def config_of(self, overrides: Sequence[str]) -> Config:
        """The config of one training: the shared one, then the command line, then `overrides`."""
        if isinstance(self.config, str):
            return load_config(self.config, [*self.overrides, *overrides])
        return load_config(None, [*_flat(self.config), *self.overrides, *overrides])


def load_comparison(path: Path | None = None, words: Sequence[str] = ()) -> Comparison:
    """The comparison in YAML file `path` (None: the defaults) with `words` over it: "seeds=[0,1]" of the comparison
    itself, "train.max_epochs=20" of the config that all variants share.

    Raises UserError that names the key as it was written, and the nearest known one.
    """
    content = {} if path is None else _read(path)
    if path is not None and isinstance(content.get("config"), str):
        content["config"] = str(path.parent / content["config"])
    own = [word for word in words if word.partition("=")[0] in Comparison.model_fields]
    content |= {key: _value(value) for key, _, value in (word.partition("=") for word in own)}
    rest = [word for word in words if word not in own]
    try:
        comparison = Comparison.model_validate({**content, "overrides": (*content.get("overrides", ()), *rest)})
    except ValidationError as error:
        raise from_validation(error, str(path or "comparison"), Comparison.model_fields) from None
    comparison.config_of(())
    return comparison


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{text!r} is not readable as a value") from None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such comparison file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path}: not readable as YAML") from None
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: a comparison is a mapping with keys such as {', '.join(Comparison.model_fields)}")
    return content or {}


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A config written as a mapping, as overrides."""
    for name, value in content.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and path not in config_keys():
            yield from _flat(value, f"{path}.")
        else:
            yield f"{path}={json.dumps(value)}"
