"""What all diagnosis networks begin with: pictures -> tokens of all streams, and masks. Axes as in batch.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from m4oe.batch import Batch, Prediction, Rows, Tokens
from m4oe.nets.heads import MaskHead


@dataclass(frozen=True)
class StreamPlan:
    """Where a stream goes: which encoder reads it, and whose modality's path it takes."""

    name: str
    input: str
    encoder: str
    modality: int


class Tokenizer(nn.Module):
    """Encodes what exists; a network is this, `decide`, which reads tokens alone, and `num_tasks`.

    So questions such as "what if this input were absent" cost no second encoding.
    """

    num_tasks: int
    stream_of: Tensor  # (N,)
    modality_of: Tensor  # (N,)

    def __init__(self, streams: Sequence[StreamPlan], encoders: Mapping[str, nn.Module], width: int) -> None:
        super().__init__()
        self.streams = tuple(streams)
        self.encoders = nn.ModuleDict(encoders)
        self.which = nn.Parameter(torch.randn(len(streams), width) * 0.02)
        self.num_modalities = 1 + max(plan.modality for plan in streams)
        counts = torch.tensor([encoders[plan.encoder].tokens for plan in streams])
        modality = torch.tensor([plan.modality for plan in streams])
        self.register_buffer("stream_of", torch.arange(len(streams)).repeat_interleave(counts), persistent=False)
        self.register_buffer("modality_of", modality.repeat_interleave(counts), persistent=False)

    def forward(self, batch: Batch) -> Prediction:
        return self.decide(self.encode(batch), batch.inputs)

    def decide(self, tokens: Tokens, pictures: Mapping[str, Rows]) -> Prediction:
        """What the tokens say. `pictures` are needed for segmentations alone, of the streams their masks lie on."""
        raise NotImplementedError

    def encode(self, batch: Batch) -> Tokens:
        """Tokens of all streams, side by side. Streams that share an encoder are read in one call."""
        found, given = {}, {name: rows for name, rows in batch.inputs.items() if len(rows.index)}
        for name, encoder in self.encoders.items():
            plans = [plan for plan in self.streams if plan.encoder == name and plan.name in given]
            if plans:
                rows = [given[plan.name] for plan in plans]
                x = encoder(torch.cat([row.values for row in rows]))
                parts = x.split([len(row.index) for row in rows])
                found |= {p.name: Rows(part, row.index) for p, part, row in zip(plans, parts, rows)}
        pairs = [self._placed(number, found.get(plan.name), len(batch)) for number, plan in enumerate(self.streams)]
        x, present = torch.cat([x for x, _ in pairs], 1), torch.cat([here for _, here in pairs], 1)
        return Tokens(x, self.modality_of, self.stream_of, present)

    def _placed(self, number: int, rows: Rows | None, size: int) -> tuple[Tensor, Tensor]:
        count = self.encoders[self.streams[number].encoder].tokens
        if rows is None:
            empty = self.which.new_zeros(size, count, self.which.shape[1])
            return empty, torch.zeros(size, count, dtype=torch.bool, device=empty.device)
        x, present = Rows(rows.values + self.which[number], rows.index).scatter(size)
        return x, present.unsqueeze(1).expand(-1, count)

    def masks(self, head: MaskHead, z: Tensor, on: str, pictures: Mapping[str, Rows]) -> Rows:
        """Logits (P, C, *size) of the exams that have the input `on`, in whichever of its modalities."""
        parts = []
        for number, plan in enumerate(self.streams):
            if plan.input == on and plan.name in pictures and len(pictures[plan.name].index):
                rows, encoder = pictures[plan.name], self.encoders[plan.encoder]
                own = z[rows.index][:, self.stream_of == number]
                parts.append(Rows(head(own, encoder.grid, rows.values), rows.index))
        if not parts:
            empty = z.new_zeros(0, head.out.out_channels, *head.size)
            return Rows(empty, torch.arange(0, device=z.device))
        index, order = torch.cat([part.index for part in parts]).sort()
        return Rows(torch.cat([part.values for part in parts])[order], index)
