"""What a comparison trains: variants of the config, by name. Facts alone, no torch.

A variant is a list of overrides of the config that all share, so that encoder, budget and tuning are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from m4oe.errors import unknown

Group = Literal["ours", "single", "baseline", "backbone", "ablation", "segmentation"]


@dataclass(frozen=True)
class Variant:
    """A row of a comparison.

    overrides: of the base config · apart: "task" trains a model for each task, "task_and_input" one for each task from
    the input that is best on validation · paper: where it is described · differs: where ours differs.
    """

    title: str
    group: Group
    overrides: tuple[str, ...] = ()
    apart: Literal["", "task", "task_and_input"] = ""
    paper: str = ""
    differs: str = ""


def _ablation(title: str, *overrides: str, differs: str = "") -> Variant:
    return Variant(title, "ablation", overrides, differs=differs)


def _segmenter(title: str, *overrides: str, differs: str = "") -> Variant:
    return Variant(title, "segmentation", overrides, differs=differs)


_WITHOUT_SHARED = "model.shared.enabled=false"
_SPECIALISE = 'phases=[{"name": "specialise", "routing": "modality"}]'

VARIANTS: Mapping[str, Variant] = {
    "m4oe": Variant("M4oE", "ours", paper="Wu et al., ICLR 2025; Jiang and Shen, MICCAI 2024"),
    "single_task": Variant(
        "Single task, all inputs",
        "single",
        apart="task",
        differs="a network of its own for each task",
    ),
    "single_task_single_input": Variant(
        "Single task, single input",
        "single",
        apart="task_and_input",
        differs="the input is chosen on validation; an exam without it gets the training prevalence",
    ),
    "without_msoe": _ablation("M4oE without MSoE", "model.specific.enabled=false"),
    "without_mtoe": _ablation("M4oE without MToE", _WITHOUT_SHARED),
    "without_experts": _ablation("M4oE without MSoE and MToE", "model.specific.enabled=false", _WITHOUT_SHARED),
    "without_cmi": _ablation("M4oE without I(M;E|T)", "train.cmi_weight=0"),
    "cmi_0.02": _ablation("M4oE, weight of I(M;E|T) 0.02", "train.cmi_weight=0.02"),
    "cmi_0.2": _ablation("M4oE, weight of I(M;E|T) 0.2", "train.cmi_weight=0.2"),
    "experts_1": _ablation("M4oE, 1 expert in MToE", "model.shared.num_experts=1"),
    "experts_4": _ablation("M4oE, 4 experts in MToE", "model.shared.num_experts=4"),
    "experts_64": _ablation("M4oE, 64 experts in MToE", "model.shared.num_experts=64"),
    "pooled_head": _ablation("M4oE, pooled head", "model.fusion.head=pooled", differs="the head as published"),
    "embed_in_routing": _ablation(
        "M4oE, task embedding in routing",
        "model.shared.embed_in_routing=true",
        differs="published: the embedding is added after dispatch; ours can route by it",
    ),
    "learned_task_weights": _ablation("M4oE, learned task weights", "train.task_weights=learned"),
    "no_experts": _segmenter("Without experts", "model.segmenter.experts=none", differs="a dense Swin-UNet"),
    "encoder_experts": _segmenter("Experts in the encoder", "model.segmenter.experts=encoder"),
    "decoder_experts": _segmenter("Experts in the decoder", "model.segmenter.experts=decoder"),
    "specialise_alone": _segmenter("Routing by modality alone", _SPECIALISE, differs="no gate"),
    "gate_even": _segmenter("Gate that starts even", "model.segmenter.gate.start=even"),
    "gate_per_sample": _segmenter("Gate for a sample", "model.segmenter.gate.per=sample"),
    "gate_top_1": _segmenter("Gate to one expert", "model.segmenter.gate.top_k=1"),
    "shared_expert": _segmenter("One more expert, always on", "model.segmenter.shared_expert=true"),
    "separate_heads": _segmenter("A head for each label set", "model.segmenter.labels=heads"),
}

GROUPS = ("ours", "single", "baseline", "backbone", "ablation", "segmentation")
DEFAULT: Mapping[str, tuple[str, ...]] = {
    "classifier": ("ours", "single", "baseline"),
    "segmenter": ("ours", "single_task", "segmentation"),
}


def chosen_variants(names: tuple[str, ...], segmenter: bool) -> dict[str, Variant]:
    """The variants called `names`, each a variant or a group of them, in the order of the table; none: the default.

    Raises UserError for a name that is neither.
    """
    wanted = names or DEFAULT["segmenter" if segmenter else "classifier"]
    for name in wanted:
        if name not in VARIANTS and name not in GROUPS:
            raise unknown("variant", name, [*VARIANTS, *GROUPS])
    return {name: row for name, row in VARIANTS.items() if name in wanted or row.group in wanted}
