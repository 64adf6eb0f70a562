"""The diagnosis network (ICLR 2025): encoders, MSoE by modality, MToE over all tokens, fusion by task, heads.

    pictures --encoder--> tokens --MSoE (own modality)--+--fusion of task t--> head --> logits, evidence
                             \\-----MToE (all, slot e,t)--/

Axes as in batch.py. `encode` reads what exists; `decide` reads tokens alone, so that questions such as "what if
this input were absent" cost no second encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from m4oe.batch import Prediction, Routing, Rows, Tokens
from m4oe.moe import MSoE, MToE
from m4oe.nets.blocks import Attention
from m4oe.nets.tokenizer import StreamPlan, Tokenizer


class SpecificPath(nn.Module):
    """MSoE path of one modality: per layer a soft mixture over its own tokens, after attention where asked for."""

    def __init__(self, width: int, depth: int, experts: Mapping[str, int], heads: int = 0) -> None:
        super().__init__()
        self.mixtures = nn.ModuleList(MSoE(width, **experts) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth if heads else 0))
        self.attentions = nn.ModuleList(Attention(width, heads) for _ in range(depth if heads else 0))

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Routing]:
        """x (B, n, D), zero at absent tokens; the last layer's routing."""
        for layer, mixture in enumerate(self.mixtures):
            if self.attentions:
                x = x + self.attentions[layer](self.norms[layer](x), present)
            update, routing = mixture(x, present)
            x = x + update
        return x, routing


class Fusion(nn.Module):
    """Fusion block of one task: soft mixtures over MSoE's tokens joined with the task's MToE stream, then its head."""

    def __init__(self, width: int, mixtures: Sequence[MSoE], head: nn.Module) -> None:
        super().__init__()
        self.mixtures = nn.ModuleList(mixtures)
        self.head = head

    def tokens(self, own: Tensor, stream: Tensor | None, present: Tensor) -> Tensor:
        """MSoE's tokens (B, N, D) joined with the task's stream from MToE; zero at absent tokens."""
        z = own if stream is None else own + stream
        for mixture in self.mixtures:
            z = z + mixture(z, present)[0]
        return z


class Classifier(Tokenizer):
    """Any number of inputs, modalities and tasks; an exam with any non-empty subset of inputs trains and predicts."""

    def __init__(
        self,
        streams: Sequence[StreamPlan],
        encoders: Mapping[str, nn.Module],
        width: int,
        specific: Sequence[SpecificPath] | None,
        shared: MToE | None,
        fusions: Mapping[str, Fusion],
        masks_on: Mapping[str, str],
    ) -> None:
        super().__init__(streams, encoders, width)
        self.masks_on, self.num_tasks = dict(masks_on), len(fusions)
        self.specific = nn.ModuleList(specific) if specific else None
        self.shared = shared
        # A prefix, since a task may be called like a method of ModuleDict ("type", "keys").
        self.fusions = nn.ModuleDict({f"for_{task}": fusion for task, fusion in fusions.items()})

    def decide(self, tokens: Tokens, pictures: Mapping[str, Rows]) -> Prediction:
        """What the tokens say. `pictures` are needed for segmentations alone, of the streams their masks lie on."""
        tokens = tokens.with_x(torch.where(tokens.present.unsqueeze(-1), tokens.x, 0.0))
        own, routing = self._specific(tokens)
        streams: Tensor | None = None
        if self.shared is not None:
            streams, routing["shared"] = self.shared(tokens, self.num_modalities)
        logits, evidence, bias = {}, {}, {}
        for number, (key, fusion) in enumerate(self.fusions.items()):
            task = key.removeprefix("for_")
            z = fusion.tokens(own, None if streams is None else streams[:, number], tokens.present)
            if task in self.masks_on:
                logits[task] = self.masks(fusion.head, z, self.masks_on[task], pictures)
                continue
            verdict = fusion.head(z, tokens)
            logits[task] = Rows(verdict.logits, torch.arange(len(z), device=z.device))
            bias[task] = verdict.bias
            if verdict.evidence is not None:
                evidence[task] = verdict.evidence
        return Prediction(logits, evidence, bias, routing)

    def _specific(self, tokens: Tokens) -> tuple[Tensor, dict[str, Routing]]:
        own, routing = tokens.x, {}
        for modality, path in enumerate(self.specific or ()):
            places = (tokens.modality == modality).nonzero().squeeze(1)
            y, routing[f"specific.{modality}"] = path(own[:, places], tokens.present[:, places])
            own = own.index_copy(1, places, y.to(own.dtype))
        return own, routing
