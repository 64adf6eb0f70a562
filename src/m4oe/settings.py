"""The sections of a config: model, phases, training; frozen, closed, with good defaults. Facts alone; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from m4oe.study import Facts

Pixels = Annotated[int, Field(ge=1)]
Millimetres = Annotated[float, Field(gt=0)]


class Encoder(Facts):
    """How a stream becomes tokens. Names are rows of nets.encoders.ENCODERS, `hf:NAME`, or `pkg.mod:function`."""

    image: str = "vit"
    volume: str = "vit3d"
    vector: str = "variables"
    patch: int = Field(default=16, ge=2)
    volume_patch: tuple[int, int, int] = (4, 8, 8)
    depth: int = Field(default=0, ge=0)
    heads: int = Field(default=4, ge=1)
    histogram: int = Field(default=32, ge=0, description="bins of an extra token that holds the intensity distribution")
    share: Literal["modality", "input"] = "modality"
    pretrained: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Specific(Facts):
    """MSoE: a soft mixture for each modality."""

    enabled: bool = True
    depth: int = Field(default=1, ge=1)
    num_experts: int = Field(default=8, ge=1)
    slots: int = Field(default=1, ge=1)
    hidden: int = Field(default=128, ge=1)
    attention: bool = False


class Shared(Facts):
    """MToE: one soft mixture for all modalities and tasks, a slot for each (expert, task)."""

    enabled: bool = True
    num_experts: int = Field(default=16, ge=1)
    hidden: int = Field(default=128, ge=1)
    embed_in_routing: bool = False


class Fusion(Facts):
    """The block that ends each task: soft mixtures (`depth` of them), then an additive or a pooled head."""

    depth: int = Field(default=0, ge=0)
    num_experts: int = Field(default=4, ge=1)
    hidden: int = Field(default=128, ge=1)
    head: Literal["additive", "pooled"] = "additive"
    head_start: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="share of its usual random weights with which a task's head starts"
    )


class Gate(Facts):
    """The gating network of each mixture of a segmenter: softmax over experts, from the tokens themselves."""

    per: Literal["token", "sample"] = "token"
    top_k: int | None = Field(default=None, ge=1, description="experts that run for a token; default: all")
    noise: float = Field(default=0.0, ge=0, description="standard deviation added to logits in training")
    start: Literal["modality", "random"] = Field(
        default="modality",
        description="where a phase that adds gates starts: each picture with the expert of its modality, or anywhere",
    )


class Segmenter(Facts):
    """A Swin-UNet whose feed-forward networks are experts (M4oE, MICCAI 2024); an expert a modality.

    `network` puts another in its place, without experts: a row of nets.baselines.segmentation.SEGMENTERS. `size` and
    `spacing` (mm) are of a slice as the network sees it; a spacing left out is taken from the data.
    """

    network: str = "swin_unet"
    size: tuple[Pixels, Pixels] = (96, 96)
    spacing: tuple[Millimetres, Millimetres] | None = None
    context: int = Field(default=0, ge=0, description="neighbouring slices on either side, as channels")
    stem: Literal["patch", "conv"] = "conv"
    width: int = Field(default=64, ge=8)
    patch: int = Field(default=8, ge=2)
    window: int = Field(default=8, ge=2)
    depths: tuple[int, ...] = (2, 2)
    heads: tuple[int, ...] = (2, 4)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    experts: Literal["none", "encoder", "decoder", "both"] = "both"
    expert_of: dict[str, int] = Field(default={}, description="expert of a modality; default: one each")
    shared_expert: bool = Field(default=False, description="one more expert, always on")
    gate: Gate = Gate()
    labels: Literal["heads", "unified"] = "unified"
    start: str | None = Field(default=None, description="dense weights copied to every expert: hf:NAME or a file")
    flips: bool = Field(default=False, description="predictions are averaged over slices mirrored as their kind allows")
    largest_component: tuple[str, ...] = Field(default=(), description="classes of which the largest part stays")

    @model_validator(mode="after")
    def _fits(self) -> Segmenter:
        if len(self.depths) != len(self.heads):
            raise ValueError(f"depths {list(self.depths)} and heads {list(self.heads)} are of different length")
        for stage, heads in enumerate(self.heads):
            if self.width * 2**stage % heads:
                raise ValueError(f"width {self.width * 2**stage} of stage {stage} is no multiple of its {heads} heads")
        return self


class Model(Facts):
    """The network. `width` is the width D of every token; sizes are in pixels.

    kind auto: a segmenter where every task is a segmentation, else a classifier.
    """

    preset: Literal["tiny", "base", "paper"] = "tiny"
    kind: Literal["auto", "classifier", "segmenter"] = "auto"
    baseline: str | None = Field(default=None, description="another fusion in place of ours: nets.baselines.BASELINES")
    width: int = Field(default=64, ge=8)
    image_size: tuple[Pixels, Pixels] = (64, 64)
    volume_size: tuple[Pixels, Pixels, Pixels] = (16, 48, 48)
    encoder: Encoder = Encoder()
    specific: Specific = Specific()
    shared: Shared = Shared()
    fusion: Fusion = Fusion()
    segmenter: Segmenter = Segmenter()

    @model_validator(mode="after")
    def _pixels_divide(self) -> Model:
        if self.encoder.image == "vit" and any(side % self.encoder.patch for side in self.image_size):
            raise ValueError(f"image_size {list(self.image_size)} is no multiple of encoder.patch {self.encoder.patch}")
        if any(side % patch for side, patch in zip(self.volume_size, self.encoder.volume_patch)):
            raise ValueError(f"volume_size {list(self.volume_size)} is no multiple of encoder.volume_patch")
        if self.width % self.encoder.heads:
            raise ValueError(f"width {self.width} is no multiple of encoder.heads {self.encoder.heads}")
        return self


class Grow(Facts):
    """What a phase grows: the model of the run `from`, which is frozen but for what is new."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    run: Path = Field(alias="from")


class Phase(Facts):
    """One pass of build, load, freeze, fit. `freeze` and `fresh` are patterns (`*`) over parameter names.

    routing, of a segmenter: by modality, each picture running one expert, or by the learned gate · objective: the
    labels, or masked image modelling, which needs none · grow: starts from another run's model, with new modalities
    or tasks.
    """

    name: str = Field(
        default="train", pattern=r"^[^/\\]+$", description="in the log and of a file of weights; each phase has its own"
    )
    routing: Literal["modality", "gate"] = "gate"
    objective: Literal["labels", "masked_images"] = "labels"
    grow: Grow | None = None
    freeze: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    max_epochs: int | None = Field(default=None, ge=1)
    max_minutes: float | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)


class Information(Facts):
    """The form of the information term: arguments of moe.losses.conditional_mutual_information."""

    over: Literal["batch", "exam", "presence"] = "batch"
    uniform_tasks: bool = True
    uniform_modalities: bool = False
    cap: float | None = Field(default=None, gt=0, description="not pushed above this, in nats")


class Train(Facts):
    """Training. `max_minutes` is a wall-clock budget that ends cleanly, with the learning rate decayed by then."""

    seed: int = Field(default=0, ge=0)
    max_epochs: int = Field(default=24, ge=1)
    max_minutes: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the training")
    clip: float = Field(default=1.0, gt=0)
    precision: Literal["auto", "32", "bf16"] = "auto"
    patience: int | None = Field(default=None, ge=1, description="epochs without a better validation score")
    keep: Literal["best", "last"] = Field(default="best", description="epoch; few validation exams choose badly")
    refit: bool = Field(default=False, description="train again at the end, on validation exams as well")
    augment: float = Field(default=1.0, ge=0, description="strength; 0 is off")
    modality_dropout: float = Field(default=0.1, ge=0, lt=1, description="chance that training leaves an input out")
    task_weights: Literal["fixed", "learned"] | dict[str, float] = "fixed"
    class_weights: bool = True
    focal_gamma: float = Field(default=0.0, ge=0)
    cmi_weight: float = Field(default=0.002, ge=0)
    cmi: Information = Information()
    balance_weight: float = Field(default=0.01, ge=0, description="of the term that keeps a gate's experts in use")
    slices_per_epoch: int | None = Field(default=None, ge=1, description="default: the labelled slices, 4000 at most")
    workers: int | None = Field(
        default=None, ge=0, description="processes that read; default: 0 if the cache holds all"
    )
    cache_gb: float = Field(default=2.0, ge=0)
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
