"""What a comparison trains: variants of the config, by name.

A variant is a list of overrides of the config that all share, so that encoder, budget and tuning are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from m4oe.errors import UserError, unknown
from m4oe.nets.baselines import BASELINES, Baseline
from m4oe.nets.baselines.segmentation import OURS, SEGMENTERS, SegmentationBaseline

Group = Literal["ours", "single", "baseline", "backbone", "ablation", "segmentation", "own"]


@dataclass(frozen=True)
class Variant:
    """A row of a comparison.

    overrides: of the base config · apart: "task" trains a model for each task, "task_and_input" one for each task from
    the input that is best on validation · paper: where it is described · differs: where ours differs · pair: the
    variant that lacks one thing of this one, to which this one is compared as well as to the reference.
    """

    title: str
    group: Group
    overrides: tuple[str, ...] = ()
    apart: Literal["", "task", "task_and_input"] = ""
    paper: str = ""
    differs: str = ""
    pair: str = ""


def _ablation(title: str, *overrides: str, differs: str = "") -> Variant:
    return Variant(title, "ablation", overrides, differs=differs)


def _segmenter(title: str, *overrides: str, differs: str = "") -> Variant:
    return Variant(title, "segmentation", overrides, differs=differs)


_WITHOUT_SHARED = "model.shared.enabled=false"
_STRONG = "train.cmi_weight=0.02"
_ALONE = "model.baseline=hard_sharing"
_SPECIALISE = 'phases=[{"name": "specialise", "routing": "modality"}]'
_ENCODERS = {"densenet": "DenseNet", "hf_convnext": "ConvNeXt"}


def _baseline(name: str, row: Baseline) -> Variant:
    return Variant(row.title, "baseline", (f"model.baseline={name}",), paper=row.paper, differs=row.differs)


def _network(name: str, row: SegmentationBaseline) -> Variant:
    own = (f"model.segmenter.network={name}",)
    return Variant(row.title, "segmentation", own, paper=row.paper, differs=row.differs)


def _backbones() -> dict[str, Variant]:
    """Encoders of others, in pairs: with MToE and without."""
    pairs = {}
    for name, title in _ENCODERS.items():
        own, without = f"model.encoder.image={name}", f"{name}_without_mtoe"
        pairs[name] = Variant(f"{title} with MToE", "backbone", (own,), differs="trained from scratch", pair=without)
        pairs[without] = Variant(f"{title} without MToE", "backbone", (own, _WITHOUT_SHARED))
    return pairs


VARIANTS: Mapping[str, Variant] = {
    "m4oe": Variant("M4oE", "ours", paper="Wu et al., ICLR 2025; Jiang and Shen, MICCAI 2024"),
    "single_task_single_input": Variant(
        "Single task, single input",
        "single",
        (_ALONE,),
        "task_and_input",
        differs="The input is chosen on validation; an exam without it gets the training prevalence.",
    ),
    "single_task": Variant("Single task, all inputs", "single", (_ALONE,), "task", differs="A network for each task."),
    **{name: _baseline(name, row) for name, row in BASELINES.items()},
    **_backbones(),
    "a_network_a_task": Variant(
        "M4oE, a network for each task", "ablation", apart="task", differs="What several tasks in one network cost."
    ),
    "without_msoe": _ablation("M4oE without MSoE", "model.specific.enabled=false"),
    "without_mtoe": _ablation("M4oE without MToE", _WITHOUT_SHARED),
    "without_experts": _ablation("M4oE without MSoE and MToE", "model.specific.enabled=false", _WITHOUT_SHARED),
    "without_cmi": _ablation("M4oE without I(M;E|T)", "train.cmi_weight=0"),
    "cmi_0.02": _ablation("M4oE, weight of I(M;E|T) 0.02", _STRONG),
    "cmi_0.2": _ablation("M4oE, weight of I(M;E|T) 0.2", "train.cmi_weight=0.2"),
    "cmi_per_exam": _ablation("I(M;E|T) of each exam, weight 0.02", _STRONG, "train.cmi.over=exam"),
    "cmi_by_presence": _ablation("I(M;E|T) given what is present, weight 0.02", _STRONG, "train.cmi.over=presence"),
    "cmi_free_tasks": _ablation("I(M;E|T) with learned P(t), weight 0.02", _STRONG, "train.cmi.uniform_tasks=false"),
    "cmi_even_modalities": _ablation(
        "I(M;E|T) with modalities held even, weight 0.02", _STRONG, "train.cmi.uniform_modalities=true"
    ),
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
    "single_data_set": Variant(
        "One model for each label set",
        "segmentation",
        ("model.segmenter.experts=none",),
        "task",
        differs="Dense Swin-UNets.",
    ),
    **{name: _network(name, row) for name, row in SEGMENTERS.items() if not row.weights and name != OURS},
    "no_experts": _segmenter("Without experts", "model.segmenter.experts=none", differs="a dense Swin-UNet"),
    "encoder_experts": _segmenter("Experts in the encoder", "model.segmenter.experts=encoder"),
    "decoder_experts": _segmenter("Experts in the decoder", "model.segmenter.experts=decoder"),
    "specialise_alone": _segmenter("Routing by modality alone", _SPECIALISE, differs="no gate"),
    "gate_random": _segmenter("Gate that starts anywhere", "model.segmenter.gate.start=random"),
    "gate_per_sample": _segmenter("Gate for a sample", "model.segmenter.gate.per=sample"),
    "gate_top_1": _segmenter("Gate to one expert", "model.segmenter.gate.top_k=1"),
    "shared_expert": _segmenter("One more expert, always on", "model.segmenter.shared_expert=true"),
    "separate_heads": _segmenter("A head for each label set", "model.segmenter.labels=heads"),
}

GROUPS = get_args(Group)
DEFAULT: Mapping[str, tuple[str, ...]] = {
    "classifier": ("ours", "single", "baseline"),
    "segmenter": ("ours", "segmentation"),
}


def chosen_variants(
    names: Sequence[str], own: Mapping[str, Sequence[str]], kind: Literal["classifier", "segmenter"]
) -> dict[str, Variant]:
    """The variants called `names`, each a variant or a group of them, in the order of the table, then `own`
    {name: overrides}; without names, what suits the kind of model.

    Raises UserError for a name that is neither, and for an own one that is taken or cannot name a folder.
    """
    wanted = names or DEFAULT[kind]
    for name in wanted:
        if name not in VARIANTS and name not in GROUPS:
            raise unknown("variant", name, [*VARIANTS, *GROUPS])
    for name in own:
        if name in VARIANTS or name in GROUPS or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise UserError(f"own: {name!r} is taken, or is no plain name; call the variant otherwise")
    rows = {name: Variant(name, "own", tuple(overrides)) for name, overrides in own.items()}
    return {name: row for name, row in VARIANTS.items() if name in wanted or row.group in wanted} | rows
