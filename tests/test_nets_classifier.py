"""The diagnosis network: the laws of architecture.md that concern networks, for every variant of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m4oe.batch import Batch, Rows, Tokens
from m4oe.contributions import evidence_values, shapley_values
from m4oe.errors import UserError
from m4oe.nets.baselines import BASELINES
from m4oe.nets.build import build_model
from m4oe.tasks import KINDS
from m4oe.train.objective import Objective
from tiny import MODEL, SCHEMA, full_batch, subset, variant, without

VARIANTS = {
    "default": MODEL,
    "pooled head": variant(fusion={"head": "pooled"}),
    "no MSoE": variant(specific={"enabled": False}),
    "no MToE": variant(shared={"enabled": False}),
    "attention in MSoE": variant(specific={"attention": True, "depth": 2}),
    "encoder for each input": variant(encoder={"share": "input"}),
    "histogram token": variant(encoder={"histogram": 8}),
    "task embedding in routing": variant(shared={"embed_in_routing": True}),
}


@pytest.fixture(params=VARIANTS, scope="module")
def network(request):
    torch.manual_seed(0)
    return build_model(VARIANTS[request.param], SCHEMA).eval()


def same(task: str, a: Rows, b: Rows) -> bool:
    """The same exams, and probabilities (of a mask: of every pixel) within 1e-6."""
    spec = SCHEMA.task(task)
    p, q = (KINDS[spec.kind].probabilities(spec, rows.values) for rows in (a, b))
    return torch.equal(a.index, b.index) and bool((p - q).abs().max() < 1e-6)


def test_there_are_variants():
    assert len(VARIANTS) == 8


def test_law_1_content_of_absent_places_changes_nothing_bit_for_bit(network):
    batch = without(full_batch(), "mlo")
    tokens = network.encode(batch)
    poison = torch.where(tokens.present.unsqueeze(-1), tokens.x, float("nan"))
    a, b = network.decide(tokens, batch.inputs), network.decide(tokens.with_x(poison), batch.inputs)
    for task in a.logits:
        assert torch.equal(a.logits[task].values, b.logits[task].values)


def test_law_1_permuting_the_batch_changes_nothing(network):
    batch, order = full_batch(), torch.tensor([3, 0, 5, 1, 4, 2])
    whole, permuted = network(batch), network(subset(batch, order))
    for task in whole.logits:
        assert same(task, Rows(whole.logits[task].values[order], torch.arange(6)), permuted.logits[task])


def test_law_1_an_exam_does_not_see_its_neighbours(network):
    batch = full_batch()
    whole = network(batch)
    for exam in range(2):
        alone = network(subset(batch, torch.tensor([exam])))
        for task in whole.logits:
            mine = Rows(whole.logits[task].values[exam : exam + 1], torch.arange(1))
            assert same(task, alone.logits[task], mine)


def test_law_5_every_parameter_gets_a_gradient(network):
    batch = full_batch()
    network.zero_grad()
    Objective(SCHEMA.tasks, cmi_weight=0.01)(network(batch), batch).total.backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not idle
    assert len(list(network.parameters())) > 40


def test_law_4_a_batch_without_labels_has_loss_0_and_finite_gradients(network):
    batch = full_batch()
    network.zero_grad()
    losses = Objective(SCHEMA.tasks, learned=True)(network(batch), Batch(batch.exams, batch.inputs, {}))
    losses.total.backward()
    assert losses.total.item() == 0 and not set(losses.parts) - {"cmi"}
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("stream", [stream.name for stream in SCHEMA.streams])
def test_any_single_input_is_an_exam(network, stream):
    batch = full_batch()
    alone = without(batch, *[name for name in batch.inputs if name != stream])
    prediction = network(alone)
    for task, rows in prediction.logits.items():
        assert torch.isfinite(rows.values).all()
        assert len(rows.index) == (6 if task != "disc" or stream == "photo" else 0)


def test_an_absent_stream_equals_a_stream_without_rows(network):
    batch = full_batch()
    rows = batch.inputs["mlo"]
    empty = Batch(batch.exams, {**batch.inputs, "mlo": Rows(rows.values[:0], rows.index[:0])}, batch.targets)
    a, b = network(without(batch, "mlo")), network(empty)
    assert all(same(task, a.logits[task], b.logits[task]) for task in a.logits)


def test_logits_start_at_the_prevalence():
    torch.manual_seed(0)
    network = build_model(MODEL, SCHEMA).eval()
    nothing = Tokens(torch.zeros(1, 0, 32), torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(1, 0).bool())
    for task in SCHEMA.tasks:
        if task.on is None:
            head = network.fusions[f"for_{task.name}"].head
            verdict = head(nothing.x, nothing)
            assert torch.allclose(verdict.logits[0], KINDS[task.kind].prior_logits(task), atol=1e-5)


@pytest.mark.parametrize("baseline", [None, *BASELINES])
def test_a_head_starts_with_the_share_that_is_told_and_nothing_else_changes(baseline):
    """In every network: what starts otherwise is not the same budget."""
    states = []
    for share in ({}, {"cancer": 0.25}):
        torch.manual_seed(0)
        own = variant(fusion={"head_start": share})
        states.append(build_model(own.model_copy(update={"baseline": baseline}), SCHEMA).state_dict())
    (name,) = (key for key in states[0] if key.endswith(".for_cancer.head.value.weight"))
    assert torch.equal(states[0].pop(name) * 0.25, states[1].pop(name))
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_head_that_starts_at_nothing_reads_and_shapes_nothing_else():
    network = build_model(variant(fusion={"head_start": {"cancer": 0.0}}), SCHEMA)
    network(full_batch()).logits["cancer"].values.sum().backward()
    moved = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    moved = {name for name in moved if network.get_parameter(name).grad.abs().max() > 0}
    assert moved == {"fusions.for_cancer.head.value.weight", "fusions.for_cancer.head.thresholds.first"}


@pytest.mark.parametrize("task", ["cancre", "disc"])
def test_a_start_of_no_head_is_refused(task):
    with pytest.raises(UserError, match=f"model.fusion.head_start names '{task}', which is no task with a head"):
        build_model(variant(fusion={"head_start": {task: 0.5}}), SCHEMA)


def test_a_task_alone_has_nothing_to_read_from_a_head_at_nothing():
    alone = SCHEMA.model_copy(update={"tasks": SCHEMA.tasks[:1]})
    with pytest.raises(UserError, match="'cancer' is alone: nothing is there for it to read"):
        build_model(variant(fusion={"head_start": {"cancer": 0.0}}), alone)


def test_evidence_sums_to_the_logits():
    torch.manual_seed(0)
    prediction = build_model(MODEL, SCHEMA).eval()(full_batch())
    assert set(prediction.evidence) == {task.name for task in SCHEMA.tasks if task.on is None}
    for task, evidence in prediction.evidence.items():
        assert torch.allclose(evidence.sum(1) + prediction.bias[task], prediction.logits[task].values, atol=1e-6)


def test_evidence_of_an_absent_input_is_exactly_0():
    torch.manual_seed(0)
    prediction = build_model(MODEL, SCHEMA).eval()(without(full_batch(), "mlo"))
    for evidence in prediction.evidence.values():
        assert not evidence[:, 1].any() and evidence[:, 0].all()


def test_cumulative_logits_are_ordered(network):
    prediction = network(full_batch(seed=3))
    assert (prediction.logits["density"].values.diff(dim=1) < 0).all()
    assert (prediction.logits["risk"].values.diff(dim=1) > 0).all()


def test_shapley_values_sum_to_all_minus_nobody(network):
    batch = without(full_batch(4), "cc")
    tokens = network.encode(batch)
    phi = shapley_values(network, tokens, batch.inputs, SCHEMA)
    prediction = network.decide(tokens, batch.inputs)
    for task in SCHEMA.tasks:
        kind = KINDS[task.kind]
        every = kind.scores(task, prediction.logits[task.name].values).detach().numpy()
        nobody = kind.prior_scores(task).numpy()
        if task.on:
            alone = without(batch, *[name for name in batch.inputs if name != task.on])
            nobody = kind.scores(task, network(alone).logits[task.name].values).detach().numpy()
        assert np.allclose(phi[task.name].sum(1), every - nobody, atol=1e-4)
        assert not phi[task.name][:, 0].any()


def test_evidence_values_are_parts_of_the_scores():
    torch.manual_seed(0)
    prediction = build_model(MODEL, SCHEMA).eval()(full_batch())
    for name, values in evidence_values(prediction, SCHEMA).items():
        task = SCHEMA.task(name)
        kind = KINDS[task.kind]
        scores = kind.scores(task, prediction.logits[name].values).detach().numpy()
        bias = kind.scores(task, prediction.bias[name].unsqueeze(0)).detach().numpy()
        assert np.allclose(values.sum(1) + bias, scores, atol=1e-5)


def test_a_mask_follows_the_spatial_tokens_of_its_input():
    """The first token of an input with a histogram is not spatial: its grid is read from the end."""
    torch.manual_seed(0)
    network = build_model(variant(encoder={"histogram": 8}), SCHEMA).eval()
    encoder = network.encoders[network.streams[2].encoder]
    assert encoder.tokens == 5 and encoder.grid == (2, 2)
    assert network(full_batch(2)).logits["disc"].values.shape == (2, 2, 32, 32)
