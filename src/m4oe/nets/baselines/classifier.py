"""A diagnosis network with another fusion than ours. Axes as in batch.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from m4oe.batch import Prediction, Rows, Tokens
from m4oe.nets.heads import MaskHead
from m4oe.nets.tokenizer import StreamPlan, Tokenizer


class BaselineClassifier(Tokenizer):
    """Encoders as ours, then `fuser`: Tokens -> Prediction of the tasks that have logits; None without such tasks.

    Masks are drawn from the tokens of the picture they lie on, in all baselines alike.
    """

    def __init__(
        self,
        streams: Sequence[StreamPlan],
        encoders: Mapping[str, nn.Module],
        width: int,
        fuser: nn.Module | None,
        num_tasks: int,
        mask_heads: Mapping[str, MaskHead],
        masks_on: Mapping[str, str],
    ) -> None:
        super().__init__(streams, encoders, width)
        self.fuser, self.num_tasks, self.masks_on = fuser, num_tasks, dict(masks_on)
        self.mask_heads = nn.ModuleDict({f"for_{task}": head for task, head in mask_heads.items()})

    def decide(self, tokens: Tokens, pictures: Mapping[str, Rows]) -> Prediction:
        tokens = tokens.with_x(torch.where(tokens.present.unsqueeze(-1), tokens.x, 0.0))
        prediction = Prediction({}) if self.fuser is None else self.fuser(tokens)
        masks = {
            task: self.masks(self.mask_heads[f"for_{task}"], tokens.x, on, pictures)
            for task, on in self.masks_on.items()
        }
        return replace(prediction, logits={**prediction.logits, **masks})
