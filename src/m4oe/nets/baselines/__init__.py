"""Other fusions of the same inputs for the same tasks, to compare with: one row of BASELINES for each.

All read the tokens of the same encoders, start at the prevalence as ours does, and have about as many parameters as
MToE's experts; ours has MSoE as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from m4oe.nets.baselines import fusion, missing, mixtures, published
from m4oe.nets.baselines.classifier import BaselineClassifier
from m4oe.nets.baselines.ends import OnTokens, OnVectors
from m4oe.nets.baselines.shape import Shape, TaskShape

__all__ = ["BASELINES", "Baseline", "BaselineClassifier", "Shape", "TaskShape"]


@dataclass(frozen=True)
class Baseline:
    """A row: what it is called, where it was published, where ours differs from that, and how it is made.

    make: (shape) -> a module that maps Tokens, whose absent places are 0, to a Prediction.
    """

    title: str
    paper: str
    differs: str
    make: Callable[[Shape], nn.Module]


BASELINES: Mapping[str, Baseline] = {
    "hard_sharing": Baseline(
        "Hard parameter sharing",
        "Caruana, Multitask Learning, Machine Learning 1997",
        "One trunk with a residual path on the vectors of all inputs side by side; an absent input adds nothing.",
        lambda shape: OnVectors(fusion.HardSharing(shape), shape),
    ),
    "early_fusion": Baseline(
        "Early fusion of tokens",
        "Xu et al., Multimodal Learning with Transformers: A Survey, TPAMI 2023 (early concatenation)",
        "One transformer block over the tokens of all inputs, its perceptron as large as all our experts; our head.",
        lambda shape: OnTokens(fusion.EarlyFusion(shape), shape),
    ),
    "late_mean": Baseline(
        "Late fusion, mean",
        "Kittler et al., On Combining Classifiers, TPAMI 1998 (sum rule)",
        "Logits are averaged, not probabilities, over the inputs that are present; trained jointly.",
        lambda shape: fusion.LateFusion(shape, learned=False),
    ),
    "late_learned": Baseline(
        "Late fusion, learned",
        "Wolpert, Stacked Generalization, Neural Networks 1992",
        "Weights of a softmax over the inputs that are present, one for each input and task, trained jointly.",
        lambda shape: fusion.LateFusion(shape, learned=True),
    ),
    "attention_fusion": Baseline(
        "Attention fusion",
        "Vaswani et al., Attention Is All You Need, NeurIPS 2017",
        "A learned query for each task attends to one vector for each input; one layer.",
        lambda shape: OnVectors(fusion.AttentionFusion(shape), shape),
    ),
    "mmoe": Baseline(
        "MMoE",
        "Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD 2018",
        "Experts are two-layer perceptrons with GELU beside a residual path; the towers are linear.",
        lambda shape: OnVectors(mixtures.MMoE(shape), shape),
    ),
    "ple": Baseline(
        "PLE",
        "Tang et al., Progressive Layered Extraction, RecSys 2020",
        "Two levels, with residual paths; half of the experts are shared, half the tasks' own; the towers are linear.",
        lambda shape: OnVectors(mixtures.PLE(shape), shape),
    ),
    "soft_moe": Baseline(
        "Soft MoE",
        "Puigcerver et al., From Sparse to Soft Mixtures of Experts, ICLR 2024",
        "One layer over the tokens of all inputs, with as many slots as MToE but none that is a task's; our head.",
        lambda shape: OnTokens(mixtures.SoftMixture(shape), shape),
    ),
    "sparse_moe": Baseline(
        "Sparse MoE, top 2",
        "Shazeer et al., ICLR 2017; balance of Fedus et al., Switch Transformers, JMLR 2022",
        "No capacity and no noise: no token is dropped; one layer over the tokens of all inputs; our head.",
        lambda shape: OnTokens(mixtures.SparseMixture(shape), shape),
    ),
    "mod_squad": Baseline(
        "Mod-Squad style",
        "Chen et al., Mod-Squad: Designing Mixtures of Experts As Modular Multi-Task Learners, CVPR 2023",
        "One layer of perceptrons, no attention experts; I(T; E) of a batch instead of a running mean; our head.",
        lambda shape: OnTokens(mixtures.ModSquad(shape), shape),
    ),
    "fusemoe": Baseline(
        "FuseMoE style",
        "Han et al., FuseMoE: Mixture-of-Experts Transformers for Fleximodal Fusion, NeurIPS 2024",
        "One joint router over a vector for each input; balance of Switch Transformers instead of its entropy term.",
        lambda shape: OnVectors(missing.FuseMoE(shape), shape),
    ),
    "flexmoe": Baseline(
        "Flex-MoE style",
        "Yun et al., Flex-MoE: Modeling Arbitrary Modality Combination, NeurIPS 2024",
        "The bank has an entry for each (missing, present) pair instead of each combination, so that any number of "
        "inputs fits; both routers are trained together instead of complete exams first.",
        lambda shape: OnVectors(missing.FlexMoE(shape), shape),
    ),
    "mirai": Baseline(
        "Mirai style",
        "Yala et al., Toward robust mammography-based models for breast cancer risk, Sci. Transl. Med. 2021",
        "From scratch on our encoders, any inputs as views; no prediction of risk factors; no adversary of devices.",
        lambda shape: published.Mirai(shape),
    ),
    "mmodn": Baseline(
        "MModN style",
        "Swamy et al., MultiModN: Multimodal, Multi-Task, Interpretable Modular Networks, NeurIPS 2023",
        "Decoded after the last input only; a module adds to the state instead of replacing it.",
        lambda shape: OnVectors(published.MModN(shape), shape),
    ),
    "evif": Baseline(
        "Evidential fusion",
        "Han et al., Trusted Multi-View Classification, ICLR 2021",
        "Trained by the losses of the tasks instead of the evidential risk; grades and risks by a Beta opinion. The "
        "published table's EVIF, of infrared and event cameras (Geng et al., CVPR 2024), fuses pictures, not opinions.",
        lambda shape: published.Evidential(shape),
    ),
}
