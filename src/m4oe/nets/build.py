"""The only file that sees both the config and the modules: a model config and a schema -> a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch.nn import Module

from m4oe import settings
from m4oe.errors import UserError, unknown
from m4oe.moe import ExpertFFN, Experts, GateRouter, ModalityRouter, MSoE, MToE
from m4oe.nets.baselines import BASELINES, BaselineClassifier, Shape, TaskShape
from m4oe.nets.baselines.segmentation import OURS, SeparateSegmenter, baseline_of, start_baseline
from m4oe.nets.classifier import Classifier, Fusion, SpecificPath
from m4oe.nets.encoders import EncoderSpec, make_encoder
from m4oe.nets.heads import HEADS, MaskHead
from m4oe.nets.label_sets import OUTPUTS, experts_of
from m4oe.nets.segmenter import Segmenter, SliceStream
from m4oe.nets.swin_block import RATIO, DenseFeedForward, FeedForward
from m4oe.nets.swin_unet import SwinSpec, SwinUNet
from m4oe.nets.swin_weights import Report, load_dense, read_dense
from m4oe.nets.tokenizer import StreamPlan, Tokenizer
from m4oe.schema import Schema, Stream, TaskSpec
from m4oe.tasks import KINDS

ORDER = {"ordinal": -1, "survival": 1}


def build_model(model: settings.Model, schema: Schema, phase: settings.Phase | None = None) -> Tokenizer | Segmenter:
    """A network for the streams and tasks of `schema`, its biases at the training prevalence.

    phase: how a segmenter is trained by it (its routing, its objective); None: by the gate, to predict.
    """
    return build_segmenter(model, schema, phase) if model.kind == "segmenter" else build_classifier(model, schema)


def build_segmenter(model: settings.Model, schema: Schema, phase: settings.Phase | None) -> Segmenter:
    """A Swin-UNet with experts for the tasks of `schema`, all of them segmentations; or another network without."""
    own = model.segmenter
    if own.network != OURS:
        return _segmentation_baseline(own, schema, phase)
    spec = SwinSpec(own.width, own.depths, own.heads, own.window, own.patch, own.stem, own.drop_path)
    experts = _feed_forward(model, schema, "gate" if phase is None else phase.routing)
    halves = [experts if own.experts in (half, "both") else DenseFeedForward for half in ("encoder", "decoder")]
    streams = [_slice_stream(stream, schema) for stream in schema.streams]
    outputs, prior = OUTPUTS[own.labels](schema)
    network = SwinUNet(spec, [stream.channels for stream in streams], *halves)
    masked = phase is not None and phase.objective == "masked_images"
    return Segmenter(network, streams, outputs, prior, masked_images=masked)


def _segmentation_baseline(own: settings.Segmenter, schema: Schema, phase: settings.Phase | None) -> Segmenter:
    row = baseline_of(own.network)
    if own.experts != "none":
        raise UserError(
            f"model.segmenter.experts={own.experts}: {own.network} has no experts; write none, or network={OURS}"
        )
    if row.kind is SeparateSegmenter and own.labels != "heads":
        raise UserError(f"model.segmenter.network={own.network} needs model.segmenter.labels=heads: a decoder a task")
    if phase is not None and phase.objective != "labels":
        raise UserError(f"phases: {phase.name!r}: {own.network} is trained by labels alone; masked images need {OURS}")
    streams = [_slice_stream(stream, schema) for stream in schema.streams]
    return row.build(own.width, streams, *OUTPUTS[own.labels](schema))


def start(network: Segmenter, model: settings.Model, fresh: Sequence[str] = ()) -> Report | None:
    """Loads the weights that `model.segmenter.start` names, into experts copies each; None where it names none.

    fresh: patterns of parameters that may start untrained. Raises UserError where weights cannot be had or do not fit.
    """
    name, own = model.segmenter.start, model.segmenter.network
    if own != OURS:
        return start_baseline(own, network, name)
    return load_dense(network.network, read_dense(name), fresh) if name else None


def expert_of(model: settings.Model, schema: Schema) -> dict[str, int]:
    """The expert of each modality of a segmenter, those included that the config leaves to their order."""
    return dict(zip(schema.modalities, experts_of(schema.modalities, model.segmenter.expert_of)))


def _feed_forward(model: settings.Model, schema: Schema, routing: str) -> FeedForward:
    own = model.segmenter
    experts = list(expert_of(model, schema).values())
    count = max(experts) + 1

    def expert_ffn(width: int) -> ExpertFFN:
        gate = own.gate.per, own.gate.top_k, own.gate.noise
        router = ModalityRouter(experts) if routing == "modality" else GateRouter(width, count, *gate)
        shared = Experts(1, width, RATIO * width) if own.shared_expert else None
        return ExpertFFN(router, Experts(count, width, RATIO * width), shared)

    return expert_ffn


def _slice_stream(stream: Stream, schema: Schema) -> SliceStream:
    tasks = tuple(task.name for task in schema.tasks if task.on == stream.input)
    return SliceStream(stream.name, schema.modalities.index(stream.modality), schema.shape(stream)[0], tasks)


def build_classifier(model: settings.Model, schema: Schema) -> Tokenizer:
    """A diagnosis network: ours, or the baseline that the config names. Raises UserError for an unknown one."""
    if model.baseline is not None and model.baseline not in BASELINES:
        raise unknown("baseline", model.baseline, BASELINES)
    plans = [_plan(stream, model, schema) for stream in schema.streams]
    encoders = {}
    for plan, stream in zip(plans, schema.streams):
        if plan.encoder not in encoders:
            encoders[plan.encoder] = make_encoder(_encoder_name(stream, model), _encoder_spec(stream, model))
    network = (_ours if model.baseline is None else _baseline)(model, schema, plans, encoders)
    _start_heads(network, model.fusion.head_start, schema)
    return network


def _start_heads(network: Module, shares: Mapping[str, float], schema: Schema) -> None:
    """Heads start with a share of their random weights: those of baselines too, which are called alike."""
    known = {task.name for task in schema.tasks if task.on is None}
    for task, share in shares.items():
        if task not in known:
            raise UserError(
                f"config: model.fusion.head_start names {task!r}, which is no task with a head of this kind"
            )
        if len(known) == 1 and not share:
            raise UserError(
                f"config: model.fusion.head_start: {task!r} is alone: nothing is there for it to read; drop it"
            )
        for name, parameter in network.named_parameters():
            if name.endswith(f".for_{task}.head.value.weight"):
                parameter.data.mul_(share)


def _ours(model: settings.Model, schema: Schema, plans: list[StreamPlan], encoders: dict[str, Module]) -> Classifier:
    own = model.shared
    num_tasks, how = len(schema.tasks), {"embed_in_routing": own.embed_in_routing}
    return Classifier(
        plans,
        encoders,
        model.width,
        [_specific(model) for _ in schema.modalities] if model.specific.enabled else None,
        MToE(model.width, own.num_experts, num_tasks, own.hidden, **how) if own.enabled else None,
        {task.name: _fusion(task, model, schema) for task in schema.tasks},
        _masks_on(schema),
    )


def _baseline(
    model: settings.Model, schema: Schema, plans: list[StreamPlan], encoders: dict[str, Module]
) -> BaselineClassifier:
    tasks = tuple(_task_shape(task) for task in schema.tasks if task.on is None)
    modalities = tuple(plan.modality for plan in plans)
    experts = model.shared.num_experts, model.shared.hidden
    shape = Shape(model.width, model.encoder.heads, modalities, tasks, *experts)
    fuser = BASELINES[model.baseline or ""].make(shape) if tasks else None
    mask_heads = {task.name: _mask_head(task, model, schema) for task in schema.tasks if task.on is not None}
    return BaselineClassifier(plans, encoders, model.width, fuser, len(schema.tasks), mask_heads, _masks_on(schema))


def _task_shape(task: TaskSpec) -> TaskShape:
    return TaskShape(task.name, tuple(_start(task)), ORDER.get(task.kind, 0), task.kind == "multiclass")


def _start(task: TaskSpec) -> list[float]:
    return [float(logit) for logit in KINDS[task.kind].prior_logits(task)]


def _masks_on(schema: Schema) -> dict[str, str]:
    return {task.name: task.on for task in schema.tasks if task.on is not None}


def _plan(stream: Stream, model: settings.Model, schema: Schema) -> StreamPlan:
    by_modality = model.encoder.share == "modality" and stream.form != "vector"
    key = f"{stream.modality}/{stream.form}/{stream.channels}" if by_modality else stream.name
    return StreamPlan(stream.name, stream.input, key.replace(".", "_"), schema.modalities.index(stream.modality))


def _encoder_name(stream: Stream, model: settings.Model) -> str:
    return {"image": model.encoder.image, "volume": model.encoder.volume, "vector": model.encoder.vector}[stream.form]


def _encoder_spec(stream: Stream, model: settings.Model) -> EncoderSpec:
    encoder = model.encoder
    patch = {"image": (encoder.patch, encoder.patch), "volume": encoder.volume_patch, "vector": ()}[stream.form]
    return EncoderSpec(
        stream.channels,
        stream.size,
        model.width,
        patch,
        encoder.depth,
        encoder.heads,
        encoder.histogram,
        encoder.dropout,
        encoder.pretrained,
    )


def _specific(model: settings.Model) -> SpecificPath:
    own = model.specific
    experts = {"num_experts": own.num_experts, "hidden": own.hidden, "slots": own.slots}
    return SpecificPath(model.width, own.depth, experts, model.encoder.heads if own.attention else 0)


def _fusion(task: TaskSpec, model: settings.Model, schema: Schema) -> Fusion:
    own = model.fusion
    mixtures = [MSoE(model.width, own.num_experts, own.hidden) for _ in range(own.depth)]
    if task.on is not None:
        return Fusion(model.width, mixtures, _mask_head(task, model, schema))
    head = HEADS[own.head](model.width, _start(task), ORDER.get(task.kind, 0), len(schema.streams))
    return Fusion(model.width, mixtures, head)


def _mask_head(task: TaskSpec, model: settings.Model, schema: Schema) -> MaskHead:
    streams = schema.streams_of(task.on or "")
    if len({(stream.channels, stream.size) for stream in streams}) != 1:
        raise UserError(f"task {task.name!r}: pictures of input {task.on!r} differ in channels or form by modality")
    return MaskHead(model.width, streams[0].channels, streams[0].size, len(task.classes))
