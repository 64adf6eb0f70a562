"""Where gates start: at the answers of the network as it was routed by modality, for every placement and shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from m4oe.batch import Batch, Prediction, Rows
from m4oe.nets.build import build_model
from m4oe.settings import Gate, Phase
from m4oe.train.gates import imitate
from m4oe.train.phases import load_previous
from tiny_slices import SCHEMA, SIZE, slices_batch, slices_model

HARD, GATE = Phase(name="specialise", routing="modality"), Phase(name="gate")
MODELS = {
    **{place: slices_model(experts=place) for place in ("encoder", "decoder", "both")},
    "per sample": slices_model(gate=Gate(per="sample")),
    "top 1": slices_model(gate=Gate(top_k=1)),
    "per sample, top 1": slices_model(gate=Gate(per="sample", top_k=1)),
    "a shared expert": slices_model(shared_expert=True),
    "one expert for both modalities": slices_model(expert_of={"ct": 0, "mr": 0}),
}
each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def pattern(seed: int) -> Tensor:
    return torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(seed))


def pictures(size: int = 12, seed: int = 0, ct: float = 1.0) -> Batch:
    """Each modality has its own pattern, below noise; at `ct` = 0, what is called CT has that of MR."""
    batch = slices_batch(size, seed)
    below = {"ct": ct * pattern(100) + (1 - ct) * pattern(200)}
    inputs = {
        name: Rows(0.3 * rows.values + below.get(name, pattern(200)), rows.index) for name, rows in batch.inputs.items()
    }
    return Batch(batch.exams, inputs, batch.targets)


def phases(model) -> tuple[nn.Module, nn.Module]:
    """A network as it was specialised, and as the gate phase begins before its gates are started."""
    torch.manual_seed(0)
    hard = build_model(model, SCHEMA, HARD)
    torch.manual_seed(1)
    gated = build_model(model, SCHEMA, GATE)
    load_previous(gated, hard.state_dict(), GATE)
    return hard.eval(), gated.eval()


def apart(a: Prediction, b: Prediction) -> float:
    return max(float((a.logits[task].values - b.logits[task].values).abs().mean()) for task in a.logits)


@each_model
def test_a_gate_phase_starts_from_what_hard_routing_answers(model) -> None:
    (hard, gated), unseen = phases(model), pictures(12, seed=99)
    with torch.no_grad():
        wanted, even = hard(unseen), gated(unseen)
        imitate(gated, hard, [pictures(12, seed) for seed in range(4)])
        found = gated(unseen)
    assert len(found.routing) == len(wanted.routing) >= 2
    if model.segmenter.expert_of or model.segmenter.gate.top_k == 1:
        assert apart(found, wanted) < 1e-5  # one expert, and always the right one
    else:
        assert apart(even, wanted) > 0.01 and apart(found, wanted) < 0.25 * apart(even, wanted)


@each_model
def test_nothing_but_gates_is_changed(model) -> None:
    hard, gated = phases(model)
    before = {name: value.clone() for name, value in gated.state_dict().items()}
    imitate(gated, hard, [pictures()])
    changed = {name for name, value in gated.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(".gate." in name for name in changed)
    assert all(torch.equal(value, gated.state_dict()[name]) for name, value in hard.state_dict().items())


def share_of_ct(gated: nn.Module, batch: Batch) -> Tensor:
    """(layers, P): the weight of the expert of CT for each picture of the stream `ct`."""
    with torch.no_grad():
        seen = gated.pictures(batch)
        routing = gated.network(seen.values, seen.modality)[1]
    mine = slice(0, len(batch.inputs["ct"].index))
    return torch.stack([found.combine[mine, :, 0].mean(1) for found in routing.values()])


def test_a_picture_between_modalities_gets_a_blend() -> None:
    """Of the first layer, whose tokens are the pictures' own: the gate sees the picture, not what it is called."""
    hard, gated = phases(MODELS["both"])
    imitate(gated, hard, [pictures(12, seed) for seed in range(4)])
    shares = torch.stack([share_of_ct(gated, pictures(12, 99, ct))[0] for ct in torch.linspace(0, 1, 11).tolist()])
    assert (shares[0] < 0.2).all() and (shares[-1] > 0.8).all()
    assert ((shares > 0.3) & (shares < 0.7)).any(0).sum() >= 2  # of four pictures


def test_no_hooks_are_left_behind() -> None:
    hard, gated = phases(MODELS["both"])
    imitate(gated, hard, [pictures()])
    assert not any(module._forward_pre_hooks for module in hard.modules())
