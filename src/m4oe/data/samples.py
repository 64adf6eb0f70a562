"""One exam as tensors, and batches of them: pictures on the network's grid, variables, and the way back.

Axes as in batch.py: B exams of a batch · P exams that have a thing · C channels · D, H, W or `size`, pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m4oe.batch import Batch, Rows
from m4oe.data.readers import Geometry, Picture, picture_of, read_labels, read_picture
from m4oe.data.transforms import Fit, fit, normalise
from m4oe.data.variables import encode_variables
from m4oe.data.volumes.grids import labels_on
from m4oe.errors import UserError, unknown
from m4oe.schema import Schema, Stream
from m4oe.study import Task


@dataclass(frozen=True, eq=False)
class Sample:
    """One exam as tensors. What is absent has no key.

    inputs {stream: (C, H, W), (C, D, H, W) or (V,) float32} · targets {task: of one exam as Batch has of P} · fits and
    geometry {stream: of its picture}, the way from scores on the network's grid back to the picture's file · split,
    fold: as the rows of the data set say.
    """

    study: str
    exam: str
    patient: str
    inputs: Mapping[str, Tensor]
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    fits: Mapping[str, Fit] = field(default_factory=dict)
    geometry: Mapping[str, Geometry] = field(default_factory=dict)
    split: str = ""
    fold: int = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """A picture on the network's grid, (C, *size) float32, and the way there."""

    values: Tensor
    fit: Fit
    geometry: Geometry

    @property
    def nbytes(self) -> int:
        return self.values.nbytes


def fitted(picture: Picture, stream: Stream, *, mirrored: bool = False) -> Loaded:
    """`picture` normalised and brought to the grid of `stream`.

    Raises UserError for an image where the stream has volumes, or another number of channels.
    """
    form = "image" if picture.values.ndim == 3 else "volume"
    if (form, len(picture.values)) != (stream.form, stream.channels):
        raise UserError(
            f"{picture.source}: {_form(form, len(picture.values))}, where {stream.name!r} is "
            f"{_form(stream.form, stream.channels)}, as its first picture was"
        )
    way = fit(picture.shape, stream.size, mirrored=mirrored, focus=picture.focus)
    values = torch.from_numpy(normalise(picture, stream.kind).values)
    return Loaded(way.apply(values), way, picture.geometry)


def fitted_mask(path: str, task: Task, loaded: Loaded) -> Tensor:
    """The mask in `path` on the network's grid of the picture on which it lies, (*size) int16; -100 where nothing
    counts.

    Raises UserError for a mask that lies elsewhere, where the task offers no fix.
    """
    mask = read_labels(path, task.class_values, task.ignore)
    labels = labels_on(loaded.geometry, mask, task.fix)
    return loaded.fit.apply_mask(torch.from_numpy(labels)).to(torch.int16)


def collate(samples: Sequence[Sample]) -> Batch:
    """The batch of `samples`, in this order. An input or label that no sample has is no key of the batch."""
    return Batch(
        tuple(f"{sample.study}/{sample.exam}" for sample in samples),
        _rows([sample.inputs for sample in samples]),
        _rows([sample.targets for sample in samples]),
    )


def _rows(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Rows]:
    names = dict.fromkeys(name for part in parts for name in part)
    having = {name: [number for number, part in enumerate(parts) if name in part] for name in names}
    return {
        name: Rows(torch.stack([parts[number][name] for number in numbers]), torch.tensor(numbers))
        for name, numbers in having.items()
    }


def exam_sample(inputs: Mapping[str, Any], schema: Schema, sides: Mapping[str, str] | None = None) -> Sample:
    """One exam without a table, e.g. exam_sample({"left_mlo": "a.png", "history": {"age": 61}}, schema).

    A picture is a path, a list of paths (channels) or an array; plain variables are a mapping, of which any may be
    left out. An input whose modality differs from exam to exam is named with it: "scan@t1". sides: {input: "left" or
    "right"} of pictures for which the study has a laterality, and whose files do not tell it themselves.
    Raises UserError for an unknown name, for a side that is not told, and for what cannot be read.
    """
    found = {stream_named(name, schema): value for name, value in inputs.items()}
    for name in (sides or {}).keys() - {name for stream in found for name in (stream.name, stream.input)}:
        raise unknown("input in sides", name, inputs)
    if not found:
        raise UserError("an exam needs one input at least")
    vectors = {s.name: _given_vector(s, value) for s, value in found.items() if s.form == "vector"}
    pictures = {
        s.name: fitted(picture := given_picture(s, value), s, mirrored=_is_right(s, sides or {}, picture))
        for s, value in found.items()
        if s.form != "vector"
    }
    return Sample(
        study="",
        exam="",
        patient="",
        inputs={name: loaded.values for name, loaded in pictures.items()} | vectors,
        fits={name: loaded.fit for name, loaded in pictures.items()},
        geometry={name: loaded.geometry for name, loaded in pictures.items()},
    )


def stream_named(name: str, schema: Schema) -> Stream:
    streams = {stream.name: stream for stream in schema.streams}
    if name in streams:
        return streams[name]
    if of_input := schema.streams_of(name):
        raise UserError(f"input {name!r} is of several modalities; name one: {', '.join(s.name for s in of_input)}")
    raise unknown("input", name, streams)


def _is_right(stream: Stream, sides: Mapping[str, str], picture: Picture) -> bool:
    if stream.laterality != "told":
        return stream.laterality == "right"
    side = sides.get(stream.name, sides.get(stream.input)) or picture.side
    if side not in ("left", "right"):
        raise UserError(f"input {stream.name!r}: which side is it? sides={{{stream.name!r}: 'left'}}, or 'right'")
    return side == "right"


def given_picture(stream: Stream, value: Any) -> Picture:
    if isinstance(value, np.ndarray | Tensor):
        return picture_of(np.asarray(value), stream.kind, f"input {stream.name!r}")
    paths = value if isinstance(value, list | tuple) else [value]
    return read_picture([str(path) for path in paths], stream.kind)


def _given_vector(stream: Stream, value: Any) -> Tensor:
    columns = [variable.column for variable in stream.variables]
    if not isinstance(value, Mapping):
        raise UserError(f"input {stream.name!r} is a mapping of {', '.join(columns)} to values")
    for column in value:
        if column not in columns:
            raise unknown(f"variable of {stream.name!r}", str(column), columns)
    return torch.from_numpy(encode_variables(stream, {column: _text(value.get(column)) for column in columns}))


def _text(value: Any) -> str:
    """As the cell of a table: empty where missing, 1.0 as 1."""
    missing = value is None or (isinstance(value, float) and np.isnan(value))
    return "" if missing else f"{value:g}" if isinstance(value, float) else str(value)


def _form(form: str, channels: int) -> str:
    return f"{form} of {channels} channel{'s' if channels != 1 else ''}"
