"""Where a Swin-UNet starts: dense weights from elsewhere, copied to every expert ("upcycling").

Read are a published Swin transformer in the layout of Hugging Face, whose stages may have more blocks than ours, and
weights of a Swin-UNet of ours, such as masked images leave behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from m4oe.errors import UserError
from m4oe.nets.swin_unet import SwinUNet

State = Mapping[str, Tensor]

# What a Swin transformer has not, and what no dense network has.
NOT_IN_DENSE = ("decodes.*", "decoder.*", "end.*", "*.gate.*", "*.shared.*")

# Names within `encoder.layers.S.blocks.B.` of a Swin transformer, as in published files and as newer versions of
# transformers call the same, and ours within `encoder.S.B.`; {} is "weight" or "bias".
_BLOCK = (
    (r"layernorm_before", "norm1.{}"),
    (r"layernorm_after", "norm2.{}"),
    (r"attention\.(?:self|relative_position_bias)\.relative_position_bias_table", "attention.bias_table"),
    (r"attention\.(?:self\.|)(query|key|value|q_proj|k_proj|v_proj)", "attention.qkv.{}"),
    (r"attention\.(?:output\.dense|o_proj)", "attention.out.{}"),
    (r"(?:intermediate\.dense|mlp\.fc1)", "ffn.experts.{}_in"),
    (r"(?:output\.dense|mlp\.fc2)", "ffn.experts.{}_out"),
)
_ELSEWHERE = (
    (r"embeddings\.patch_embeddings\.projection", "stems.3.project.{}"),
    (r"embeddings\.norm", "stems.3.norm.{}"),
    (r"encoder\.layers\.(\d+)\.downsample\.norm", r"merges.\1.norm.{}"),
    (r"encoder\.layers\.(\d+)\.downsample\.reduction", r"merges.\1.reduce.{}"),
    (r"layernorm", "norm.{}"),
)
_THIRD = {"query": 0, "key": 1, "value": 2, "q_proj": 0, "k_proj": 1, "v_proj": 2}


class Report(NamedTuple):
    """Of a loading: our parameters that were `loaded`, what the file holds and nobody took (`left_over`, names as in
    the file), and our parameters that start `fresh`."""

    loaded: tuple[str, ...]
    left_over: tuple[str, ...]
    fresh: tuple[str, ...]


def load_dense(network: SwinUNet, state: State, fresh: Sequence[str] = ()) -> Report:
    """Loads `state` in place; every expert becomes a copy of the feed-forward network that it replaces.

    A kernel over three channels serves C channels so that C equal channels are seen as three equal ones were. A shared
    expert, which no dense network has, starts silent. fresh: patterns of parameters that may keep what they have,
    beside those of NOT_IN_DENSE. Raises UserError for any other parameter that finds nothing, or nothing that fits.
    """
    given, used, loaded, kept, wrong = ours(state), set(), [], [], []
    for name, parameter in network.named_parameters():
        source = next((key for key in _sources(name, given) if key in given), None)
        value = None if source is None else _fitted(given[source].tensor, parameter)
        if value is not None:
            parameter.data.copy_(value)
            used.add(source)
            loaded.append(name)
        elif any(fnmatchcase(name, pattern) for pattern in (*fresh, *NOT_IN_DENSE)):
            kept.append(name)
        else:
            found = "nothing" if source is None else f"{tuple(given[source].tensor.shape)}"
            wrong.append(f"{name} {tuple(parameter.shape)}: {found}")
    _refuse(wrong)
    _silence(network, kept, loaded)
    left = [name for key, entry in given.items() if key not in used for name in entry.names]
    return Report(tuple(loaded), tuple(left), tuple(kept))


class Entry(NamedTuple):
    """A tensor under our name, and the names in the file that it was made of."""

    tensor: Tensor
    names: tuple[str, ...]


def ours(state: State) -> dict[str, Entry]:
    """`state` under the names of a SwinUNet; what has no such name keeps its own."""
    found: dict[str, Entry] = {}
    parts: dict[str, dict[int, str]] = {}
    for name, tensor in state.items():
        if name.endswith("relative_position_index"):
            continue  # follows from the window
        own, part = _our_name(re.sub(r"^(swin|network)\.", "", name))
        if part is not None:
            parts.setdefault(own, {})[part] = name
        else:
            found[own] = Entry(_as_experts(own, tensor), (name,))
    for own, names in parts.items():
        three = tuple(names[part] for part in sorted(names))
        found[own] = Entry(torch.cat([state[name] for name in three]), three)
    return found


def _our_name(name: str) -> tuple[str, int | None]:
    """Our name of a Swin transformer's parameter, and which third of ours it is, if any."""
    name, _, kind = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
    if block := re.fullmatch(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)", name):
        stage, number, inner = block.groups()
        for pattern, own in _BLOCK:
            if match := re.fullmatch(pattern, inner):
                third = _THIRD[match[1]] if match.groups() else None
                return f"encoder.{stage}.{number}.{own.format(kind)}", third
    for pattern, own in _ELSEWHERE:
        if match := re.fullmatch(pattern, name):
            return match.expand(own).format(kind), None
    return f"{name}.{kind}" if kind else name, None


def _as_experts(own: str, tensor: Tensor) -> Tensor:
    """A published linear map (out, in), or its bias, as a stack of one expert; anything else as it is."""
    if ".experts." in own and tensor.ndim == 2 and ".weight_" in own:
        return tensor.T.unsqueeze(0)
    return tensor.unsqueeze(0) if ".experts." in own and tensor.ndim == 1 else tensor


def _sources(name: str, given: Mapping[str, Entry]) -> Iterator[str]:
    """Names under which a parameter's value may be found: a stem also takes another channel count's."""
    yield name
    if name.startswith("stems."):
        rest = name.split(".", 2)[2]
        yield from (key for key in given if key.startswith("stems.") and key.split(".", 2)[2] == rest)


def _fitted(value: Tensor, parameter: Tensor) -> Tensor | None:
    """`value` in the shape of `parameter`: one expert for every expert, channels shared out; None if it cannot be."""
    if value.shape == parameter.shape:
        return value
    if value.ndim == parameter.ndim and len(value) == 1 and value.shape[1:] == parameter.shape[1:]:
        return value.expand_as(parameter)
    if value.ndim == 4 and value[:, :1].shape == parameter[:, :1].shape:
        return (value.sum(1, keepdim=True) / parameter.shape[1]).expand_as(parameter)
    return None


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"model.segmenter.start: the weights do not fit the network (ours: theirs): {'; '.join(wrong[:3])}{more}. "
            "The preset 'paper' has the shape of swin-tiny-patch4-window7-224; or name in the phase's 'fresh' what "
            "may start untrained"
        )


def _silence(network: SwinUNet, kept: Sequence[str], loaded: Sequence[str]) -> None:
    """A shared expert beside copies of a dense network says nothing at first: it would be heard twice."""
    for name in kept:
        if name.endswith("_out") and name.replace(".shared.", ".experts.") in loaded:
            network.get_parameter(name).data.zero_()


def read_dense(start: str) -> dict[str, Tensor]:
    """The weights that `start` names: a file (.safetensors, or of torch), a folder that holds model.safetensors, or
    `hf:NAME`, from the cache of Hugging Face or its site. Raises UserError where they cannot be had."""
    path = _from_hub(start.removeprefix("hf:")) if start.startswith("hf:") else _local(Path(start))
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen kinds for a damaged file
        raise UserError(f"model.segmenter.start: {path}: not readable as weights ({type(error).__name__})") from None
    content = next((content[key] for key in ("state_dict", "model") if key in content), content)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _local(path: Path) -> Path:
    for candidate in (path, path / "model.safetensors", path / "model" / "model.safetensors"):
        if candidate.is_file():
            return candidate
    raise UserError(f"model.segmenter.start: {path}: no such file, nor a folder that holds model.safetensors")


def _from_hub(name: str) -> Path:
    from transformers.utils import cached_file

    for file in ("model.safetensors", "pytorch_model.bin"):
        try:
            if found := cached_file(name, file, _raise_exceptions_for_missing_entries=False):
                return Path(found)
        except (OSError, ValueError):
            break
    raise UserError(
        f"model.segmenter.start: weights of {name!r} cannot be had. Offline: download the model elsewhere and give "
        "its folder or its model.safetensors; or leave 'start' away to train from scratch"
    )
