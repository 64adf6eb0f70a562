"""The section on experts of a segmenter: how much each is used at each depth, and which one serves which pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from m4oe.artifact import Artifact, load_artifact
from m4oe.errors import UserError
from m4oe.nets.label_sets import experts_of
from m4oe.predict.slicewise import Slicewise
from m4oe.report.examples import View
from m4oe.report.figures import stacked
from m4oe.report.folder import RunFolder
from m4oe.report.overlays import enlarged, shown_pixels
from m4oe.report.pictures import photo_uri, rgb
from m4oe.report.sections import Section
from m4oe.report.svg import HUES
from m4oe.report.words import plain, title

FAINT, STRONG = 0.15, 0.75  # opacity of an expert that leads by nothing, and of one that works alone


@dataclass(frozen=True)
class Maps:
    """An example slice of a modality: the picture, then by layer which expert serves which pixel, as data URIs."""

    modality: str
    about: str
    shots: tuple[tuple[str, str], ...]


class GateMaps:
    """Collects maps of the first slice of each modality that it sees; `note` says why there are none."""

    def __init__(self, run: RunFolder) -> None:
        self.maps: dict[str, Maps] = {}
        self.note = ""
        self._slicewise = self._network(run)

    def see(self, view: View) -> None:
        modality = view.stream.modality
        if self._slicewise is not None and modality not in self.maps:
            found = self._slicewise.experts(view.picture, view.number, view.stream)
            about = "" if view.way.slices == 1 else f"slice {view.number + 1} of {view.way.slices}"
            self.maps[modality] = Maps(modality, about, tuple(_shots(view, found)))

    def _network(self, run: RunFolder) -> Slicewise | None:
        """None, with a note, where the model cannot be had, and where its experts are told by modality alone."""
        try:
            artifact = None if run.model_place is None else load_artifact(run.model_place)
        except UserError as error:
            self.note = f"No maps: {error}"
            return None
        if artifact is None or artifact.schema.plan is None:
            self.note = "No maps: the run has no model; 'm4oe train' makes it."
        elif artifact.phase.routing == "modality":
            self.note = "Each picture goes whole to the expert of its modality, so that there is nothing to map."
        elif _experts(artifact) > 1:
            return Slicewise(artifact.network, artifact.schema.plan, torch.device("cpu"))
        else:
            self.note = "One expert serves all, so that there is nothing to map."
        return None


def _experts(artifact: Artifact) -> int:
    own = artifact.model.segmenter
    return 0 if own.experts == "none" else max(experts_of(artifact.schema.modalities, own.expert_of)) + 1


def _shots(view: View, found: Mapping[str, ndarray]) -> list[tuple[str, str]]:
    grey = shown_pixels(view)
    drawn = [("Image", photo_uri(grey))]
    for layer in telling_layers(list(found)):
        shares = np.moveaxis(view.turned(np.moveaxis(found[layer], 2, 0)), 0, 2)
        drawn.append((layer_words(layer), photo_uri(gate_map(grey, shares))))
    return drawn


def telling_layers(layers: Sequence[str]) -> list[str]:
    """The first and the last of the encoder, and the last of the decoder, whose first stands in for an encoder's."""
    encoder = [layer for layer in layers if layer.startswith("encoder")]
    decoder = [layer for layer in layers if layer.startswith("decoder")]
    return list(dict.fromkeys([*encoder[:1], *encoder[-1:], *([] if encoder else decoder[:1]), *decoder[-1:]]))


def layer_words(layer: str) -> str:
    """A layer as people count, Encoder 1.2 of "encoder.0.1": the second block of its finest stage."""
    half, stage, block = layer.split(".")
    return f"{title(half)} {int(stage) + 1}.{int(block) + 1}"


def gate_map(pixels: ndarray, shares: ndarray) -> ndarray:
    """pixels (h, w, 3) in the hue of each place's strongest expert, the fuller the more it leads; shares (H, W, E)."""
    count = shares.shape[2]
    lead = (shares.max(2) - 1 / count) / (1 - 1 / count) if count > 1 else np.ones(shares.shape[:2])
    strongest = enlarged(shares.argmax(2), pixels.shape)
    opacity = FAINT + (STRONG - FAINT) * enlarged((1000 * lead).round(), pixels.shape)[..., None] / 1000
    hues = np.array([rgb(HUES[expert % len(HUES)]) for expert in range(count)], float)
    return (pixels * (1 - opacity) + hues[strongest] * opacity).round().astype(np.uint8)


def gate_section(run: RunFolder, maps: GateMaps) -> Section:
    """The gate's load by modality and depth, and its maps."""
    heading = "Experts and routing"
    gate = (run.routing or {}).get("gate")
    if not gate:
        why = "No routing.json: 'm4oe evaluate' makes it."
        return Section("gate", heading, missing=why if run.routing is None else "This network has no experts.")
    loads, modalities = np.asarray(gate["load"], float), run.routing["modalities"]  # type: ignore[index]
    experts = expert_names(run, loads.shape[2])
    rows = [layer_words(layer) for layer in gate["layers"]]
    figures = [
        stacked(name, rows, loads[:, place], experts) for place, name in enumerate(modalities) if loads[:, place].any()
    ]
    unseen = [name for place, name in enumerate(modalities) if not loads[:, place].any()]
    content: dict[str, Any] = {
        "named": any("(" in name for name in experts),
        "figures": figures,
        "unseen": unseen,
        "note": maps.note,
        "shared": _shared(run),
        "maps": [maps.maps[name] for name in modalities if name in maps.maps],
        "legend": [(name, HUES[place % len(HUES)]) for place, name in enumerate(experts)],
    }
    return Section("gate", heading, content)


def expert_names(run: RunFolder, count: int) -> list[str]:
    """Names such as "expert 1 (ct)": with the modalities that an expert began with, bare where it was told none."""
    own = (run.facts.get("model") or run.config.get("model") or {}).get("segmenter", {}).get("expert_of", {})
    told = run.growth is not None or any(one.get("routing") == "modality" for one in run.config.get("phases", ()))
    modalities = run.schema.modalities if told and run.schema is not None else ()
    served: dict[int, list[str]] = {}
    for modality, expert in zip(modalities, experts_of(modalities, own) if modalities else ()):
        served.setdefault(expert, []).append(plain(modality))
    return [f"expert {n + 1}" + (f" ({', '.join(served[n])})" if n in served else "") for n in range(count)]


def _shared(run: RunFolder) -> bool:
    model = run.facts.get("model") or run.config.get("model") or {}
    return bool(model.get("segmenter", {}).get("shared_expert"))
