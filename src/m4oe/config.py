"""A config: model and training, from YAML and `key=value`; frozen, closed, with good defaults. No torch.

A preset fills what the user leaves out; the resolved config is written into the run.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from m4oe.errors import UserError, from_validation, unknown
from m4oe.presets import IMPLIED, PRESETS, SEGMENTER, SEGMENTER_PRESETS
from m4oe.settings import Model, Phase, Train
from m4oe.study import Facts


class Config(Facts):
    """All of it."""

    model: Model = Model()
    phases: tuple[Phase, ...] = Field(default=(Phase(),), min_length=1)
    train: Train = Train()

    @model_validator(mode="after")
    def _grows_first(self) -> Config:
        if any(phase.grow for phase in self.phases[1:]):
            raise ValueError("phases: only the first can grow another run's model")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Config:
        names = [phase.name for phase in self.phases]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"phases: {names.count(twice)} are called {twice!r}; give each a 'name' of its own")
        return self

    _given: dict[str, Any] | None = PrivateAttr(default=None)  # what the user wrote, before any preset

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.model_dump() == other.model_dump()

    def model_copy(self, **how: Any) -> Config:
        """A copy says by itself what is set: what the user once wrote would undo its changes."""
        copy = super().model_copy(**how)
        copy._given = None
        return copy

    @property
    def written(self) -> dict[str, Any]:
        """What the user wrote, before any preset; of a config made in Python, what was set."""
        return self.model_dump(exclude_unset=True, mode="json") if self._given is None else self._given

    def inheriting(self, model: Model, routing: str) -> Config:
        """This config, which grows a run, over the `model` and the routing of that run, as if they were written."""
        first, *rest = self.written["phases"]
        content = _merged({"model": model.model_dump(mode="json")}, self.written)
        return _resolved({**content, "phases": [{"routing": routing, **first}, *rest]}, "config")

    def for_tasks(self, kinds: Collection[str]) -> Config:
        """This config for tasks of these kinds: `model.kind` told, and the defaults of a segmenter where it is one."""
        segmenter = set(kinds) == {"segmentation"} if self.model.kind == "auto" else self.model.kind == "segmenter"
        if not segmenter:
            return self.model_copy(update={"model": self.model.model_copy(update={"kind": "classifier"})})
        given = self.written
        own = given.get("model", {}).get("segmenter", {})
        implied = IMPLIED.get(own.get("network", "swin_unet"), {"experts": "none"})
        told = _merged({"model": {"segmenter": implied}}, _merged(given, {"model": {"kind": "segmenter"}}))
        if told["model"]["segmenter"].get("experts") == "none":
            told = _merged({"phases": [{"name": "train"}]}, told)  # without experts there is nothing to specialise
        defaults = _merged(_merged(PRESETS[self.model.preset], SEGMENTER), SEGMENTER_PRESETS[self.model.preset])
        return Config.model_validate(_merged(defaults, told))


def load_config(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config in YAML file `path` (None: the defaults), with `overrides` such as "model.shared.num_experts=64".

    Raises UserError that names the path as the user wrote it, the value, and the nearest known name.
    """
    content = _read(Path(path)) if path else {}
    for text in overrides:
        _set(content, text)
    return _resolved(content, str(path) if path else "config")


def _resolved(content: dict[str, Any], source: str) -> Config:
    """The config of what a user wrote in `source`: over its preset, and with `content` remembered as written."""
    preset = (
        (content.get("model") or {}).get("preset", "tiny") if isinstance(content.get("model", {}), dict) else "tiny"
    )
    if preset not in PRESETS:
        raise unknown("preset", str(preset), PRESETS)
    try:
        config = Config.model_validate(_merged(PRESETS[preset], content))
    except ValidationError as error:
        raise _explain(error, source) from None
    config._given = content
    return config


def dump_config(config: Config) -> str:
    """The YAML of a resolved `config`; reading it gives the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def flattened(content: object, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one {"train.seed": value}; anything else is a value."""
    if not isinstance(content, Mapping):
        return {prefix: content}
    parts = [flattened(value, f"{prefix}.{key}" if prefix else key) for key, value in content.items()]
    return {key: value for part in parts for key, value in part.items()}


def config_keys(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Dotted names of all keys, e.g. "model.shared.num_experts"."""
    keys = []
    for name, info in model.model_fields.items():
        inner: Any = info.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        keys += config_keys(inner, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return keys


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such config file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path}: not readable as YAML") from None
    if not isinstance(content, dict | None):
        raise UserError(f"{path}: a config is a mapping with 'model', 'phases' and 'train'")
    return content or {}


def _set(content: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UserError(f"{text!r}: an override is written path=value, e.g. train.max_epochs=20")
    if path not in config_keys():
        close = difflib.get_close_matches(path, config_keys(), n=1, cutoff=0.3)
        raise UserError(f"{text}: there is no {path!r} in a config; {f'did you mean {close[0]!r}?' if close else ''}")
    *folders, last = path.split(".")
    for folder in folders:
        content = content.setdefault(folder, {})
    content[last] = yaml.safe_load(value)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merged(base[key], over[key]) for key in base.keys() & over.keys() if _maps(base[key], over[key])}
    return {**base, **over, **both}


def _maps(a: object, b: object) -> bool:
    return isinstance(a, Mapping) and isinstance(b, Mapping)


def _explain(error: ValidationError, source: str) -> UserError:
    names = {key for path in config_keys() for key in path.split(".")} | set(Phase.model_fields)
    return from_validation(error, source, names)
