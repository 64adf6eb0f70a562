"""Plain numbers from which baselines are built."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskShape:
    """A task that has logits, not masks.

    start: (C,) logits of the training prevalence · order: of its logits, +1 increasing, -1 decreasing, 0 free ·
    exclusive: whether its C logits are classes that exclude each other.
    """

    name: str
    start: tuple[float, ...]
    order: int = 0
    exclusive: bool = False

    @property
    def sums(self) -> int:
        """Numbers A that a head gives before thresholds: 1 where they are ordered, else C."""
        return 1 if self.order else len(self.start)


@dataclass(frozen=True)
class Shape:
    """width D, attention heads, the modality of each of I streams, T tasks, and what experts may cost: E of `hidden`.

    A baseline without experts has one network of as many parameters, `budget` wide.
    """

    width: int
    heads: int
    modalities: tuple[int, ...]
    tasks: tuple[TaskShape, ...]
    num_experts: int
    hidden: int

    @property
    def num_streams(self) -> int:
        return len(self.modalities)

    @property
    def budget(self) -> int:
        """The hidden width of a network as large as all experts together."""
        return self.num_experts * self.hidden

    @property
    def share(self) -> int:
        """The hidden width that each stream's own network has of that."""
        return max(1, self.budget // self.num_streams)
