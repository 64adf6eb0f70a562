"""Baselines: the laws of networks for every row of the table, and each mixture against its own arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from m4oe.artifact import count_parameters
from m4oe.batch import Batch, Rows, Tokens
from m4oe.config import load_config
from m4oe.contributions import evidence_values, shapley_values
from m4oe.errors import UserError
from m4oe.moe import Experts
from m4oe.nets.baselines import BASELINES, BaselineClassifier, Shape, TaskShape
from m4oe.nets.baselines.fusion import LateHead
from m4oe.nets.baselines.missing import Bank, FlexMoE, FuseMoE, LaplaceGate, expert_of
from m4oe.nets.baselines.mixtures import Extraction, MMoE, ModSquad, SoftMixture, task_information
from m4oe.nets.baselines.published import EvidenceHead, HazardHead, MModN, fused_concentration
from m4oe.nets.baselines.sparse import balance, blend, strongest
from m4oe.nets.build import build_model
from m4oe.schema import Schema
from m4oe.tasks import KINDS
from m4oe.train.objective import Objective
from tiny import MODEL, SCHEMA, STREAMS, TASKS, full_batch, subset, without

NAMES = list(BASELINES)
SUMS = {"late_mean", "late_learned", "early_fusion", "soft_moe", "sparse_moe", "mod_squad"}  # logits are sums of parts
LOGITS = [task.name for task in TASKS if task.on is None]
BINARY, GRADE = TaskShape("cancer", (-1.0,)), TaskShape("density", (1.0, -1.0), -1)
SHAPE = Shape(8, 2, (0, 0, 1), (BINARY, GRADE), 4, 6)


def network_of(name: str | None, schema: Schema = SCHEMA) -> BaselineClassifier:
    torch.manual_seed(0)
    return build_model(MODEL.model_copy(update={"baseline": name}), schema).eval()


@pytest.fixture(params=NAMES, scope="module")
def network(request):
    return network_of(request.param)


def tokens_of(here: list[list[bool]], width: int = 8, each: int = 2, seed: int = 0) -> Tokens:
    """`each` tokens of every stream that an exam has, zeros for the others."""
    present = torch.tensor(here).repeat_interleave(each, 1)
    x = torch.randn(*present.shape, width, generator=torch.Generator().manual_seed(seed))
    stream = torch.arange(len(here[0])).repeat_interleave(each)
    return Tokens(torch.where(present.unsqueeze(-1), x, 0.0), stream, stream, present)


def close(task: str, a: Rows, b: Rows) -> bool:
    """The same exams, and probabilities within 1e-6."""
    spec = SCHEMA.task(task)
    p, q = (KINDS[spec.kind].probabilities(spec, rows.values) for rows in (a, b))
    return torch.equal(a.index, b.index) and bool((p - q).abs().max() < 1e-6)


def test_the_table_is_whole():
    assert len(BASELINES) == 15
    assert all(row.title and row.paper and row.differs for row in BASELINES.values())


def test_the_page_is_the_table(repository: Path):
    page = (repository / "docs" / "baselines.md").read_text(encoding="utf-8").splitlines()
    rows = [f"| `{name}` | {row.title} | {row.paper} | {row.differs} |" for name, row in BASELINES.items()]
    assert len(rows) == 15 and [line for line in rows if line not in page] == []


def test_an_unknown_baseline_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="unknown baseline 'mmoee': did you mean 'mmoe'"):
        network_of("mmoee")


def test_law_1_content_of_absent_places_changes_nothing_bit_for_bit(network):
    batch = without(full_batch(), "mlo")
    tokens = network.encode(batch)
    poison = torch.where(tokens.present.unsqueeze(-1), tokens.x, float("nan"))
    a, b = network.decide(tokens, batch.inputs), network.decide(tokens.with_x(poison), batch.inputs)
    assert len(a.logits) == len(TASKS)
    assert all(torch.equal(a.logits[task].values, b.logits[task].values) for task in a.logits)


def test_law_1_permuting_the_batch_and_neighbours_change_nothing(network):
    batch, order = full_batch(), torch.tensor([3, 0, 5, 1, 4, 2])
    whole, permuted, alone = network(batch), network(subset(batch, order)), network(subset(batch, order[:1]))
    for task in LOGITS:  # masks are not a baseline's own: test_nets_classifier.py
        rows = whole.logits[task]
        assert close(task, Rows(rows.values[order], torch.arange(6)), permuted.logits[task])
        assert close(task, Rows(rows.values[order[:1]], torch.arange(1)), alone.logits[task])


def test_any_single_input_is_an_exam(network):
    batch = full_batch()
    for stream in STREAMS:
        prediction = network(without(batch, *[name for name in batch.inputs if name != stream.name]))
        for task, rows in prediction.logits.items():
            assert torch.isfinite(rows.values).all()
            assert len(rows.index) == (6 if task != "disc" or stream.name == "photo" else 0)


def test_an_input_that_is_there_counts(network):
    """The check of the laws above: logits would not change either if inputs were not read at all."""
    batch = full_batch()
    a, b = network(batch).logits["cancer"].values, network(without(batch, "photo")).logits["cancer"].values
    assert (a - b).abs().max() > 1e-4


def test_law_4_a_batch_without_labels_costs_its_penalties_alone(network):
    batch = full_batch()
    network.zero_grad()
    losses = Objective(SCHEMA.tasks)(network(batch), Batch(batch.exams, batch.inputs, {}))
    losses.total.backward()
    assert losses.total.item() == pytest.approx(sum(float(part.detach()) for part in losses.parts.values()), abs=1e-6)
    assert not set(losses.parts) & {task.name for task in TASKS}
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_law_5_every_parameter_gets_a_gradient(network):
    batch = full_batch()
    network.zero_grad()
    Objective(SCHEMA.tasks)(network(batch), batch).total.backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    assert len(list(network.parameters())) > 40


def test_cumulative_logits_are_ordered(network):
    prediction = network(full_batch(seed=3))
    assert (prediction.logits["density"].values.diff(dim=1) < 0).all()
    assert (prediction.logits["risk"].values.diff(dim=1) > 0).all()


def test_thresholds_start_at_the_prevalence(network):
    """Heads of all baselines hold our own Thresholds: with weights of 0 they say the prevalence."""
    for task in (task for task in TASKS if task.on is None):
        thresholds = network.fuser.tasks[f"for_{task.name}"].head.thresholds()
        assert torch.allclose(thresholds, KINDS[task.kind].prior_logits(task), atol=1e-5)


def test_shapley_values_sum_to_all_minus_nobody(network):
    batch = without(full_batch(3), "cc")
    tokens = network.encode(batch)
    phi, prediction = shapley_values(network, tokens, batch.inputs, SCHEMA), network.decide(tokens, batch.inputs)
    for task in (task for task in TASKS if task.on is None):
        kind = KINDS[task.kind]
        every = kind.scores(task, prediction.logits[task.name].values).detach().numpy()
        assert np.allclose(phi[task.name].sum(1), every - kind.prior_scores(task).numpy(), atol=1e-4)
        assert not phi[task.name][:, 0].any()


@pytest.mark.parametrize("name", NAMES)
def test_evidence_is_given_where_logits_are_sums(name):
    prediction = network_of(name)(without(full_batch(), "mlo"))
    assert bool(prediction.evidence) == (name in SUMS)
    for task, evidence in prediction.evidence.items():
        assert torch.allclose(evidence.sum(1) + prediction.bias[task], prediction.logits[task].values, atol=1e-5)
        assert not evidence[:, 1].any() and evidence[:, 0].any()
    assert set(evidence_values(prediction, SCHEMA)) == set(prediction.evidence)


def test_sizes_are_comparable_at_the_defaults():
    """All but encoders: within a factor of two and a half of ours, which has experts of its own for each modality."""
    model = load_config().model
    schema = Schema(streams=STREAMS[:2], tasks=tuple(task for task in TASKS if task.on is None))
    sizes = {}
    for name in [None, *NAMES]:
        network = build_model(model.model_copy(update={"baseline": name}), schema)
        sizes[name] = count_parameters(network) - count_parameters(network.encoders)
    ours = sizes.pop(None)
    assert len(sizes) == 15 and {name: size / ours for name, size in sizes.items() if not 0.4 < size / ours < 2.5} == {}


def test_a_saved_baseline_is_the_same_when_loaded(tmp_path):
    from m4oe.artifact import Artifact, load_artifact, save_artifact

    model = MODEL.model_copy(update={"baseline": "flexmoe"})
    save_artifact(Artifact(network_of("flexmoe"), model, SCHEMA), tmp_path / "model")
    a, b = network_of("flexmoe")(full_batch()), load_artifact(tmp_path).network(full_batch())
    assert all(torch.equal(a.logits[task].values, b.logits[task].values) for task in a.logits)


# Fusion


def test_late_fusion_by_hand():
    """One number a token, weight 1, two of three streams present: (2 + 4) / 2; weights log 3 and 0: (6 + 4) / 4."""
    task, shape = TaskShape("cancer", (0.5,)), Shape(1, 1, (0, 1, 2), (), 1, 1)
    x, here = torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]])
    for learned, parts in ((False, [1.0, 2.0, 0.0]), (True, [1.5, 1.0, 0.0])):
        head = LateHead(shape, task, learned)
        head.value.weight.data.fill_(1.0)
        if learned:
            head.weight.data = torch.tensor([3.0, 1.0, 7.0]).log()
        votes, bias = head(x, here)
        assert torch.allclose(votes[0, :, 0], torch.tensor(parts)) and bias.item() == 0.5


# Mixtures


def test_mmoe_is_a_softmax_blend_of_experts_by_task():
    torch.manual_seed(0)
    body, tokens = MMoE(SHAPE), tokens_of([[True, True, False], [False, True, True]])
    got, x = body(tokens).x, body.joined(tokens)
    for exam in range(2):
        for task, gate in enumerate(body.gates):
            share = (gate.weigh.weight @ x[exam] + gate.weigh.bias).softmax(0)
            answers = body.experts(x[exam].expand(4, 1, -1))[:, 0]
            blend_by_hand = x[exam] + sum(share[e] * answers[e] for e in range(4))
            assert torch.allclose(got[exam, task], blend_by_hand, atol=1e-6)


def test_ple_blends_a_tasks_own_and_the_shared_experts_and_no_others():
    torch.manual_seed(0)
    level, x = Extraction(SHAPE, own=1, shared=2, last=True), torch.randn(2, 3, 8)
    common = torch.randn(3, 8)
    before, same = level(x, common)
    assert same is common
    with torch.no_grad():
        level.own[1].bias_out.add_(1.0)
    after = level(x, common)[0]
    share = level.gates[1].weigh(x[1]).softmax(-1)[:, :1]
    assert torch.equal(after[0], before[0]) and torch.allclose(after[1], before[1] + share, atol=1e-6)
    with torch.no_grad():
        level.shared.bias_out.add_(1.0)
    assert not torch.isclose(level(x, common)[0], after).any()


def test_the_k_strongest_share_a_weight_of_1():
    """Logits log 1, log 4, log 3, log 2: the two strongest have odds of 4 to 3."""
    weight = strongest(torch.tensor([[1.0, 4.0, 3.0, 2.0]]).log(), 2)
    assert torch.allclose(weight, torch.tensor([[0.0, 4 / 7, 3 / 7, 0.0]]))
    assert strongest(torch.randn(5, 3), 7).count_nonzero() == 15


def test_a_sparse_blend_equals_running_every_expert():
    torch.manual_seed(0)
    experts, x = Experts(4, 8, 6), torch.randn(9, 8)
    weight = strongest(torch.randn(9, 4), 2)
    dense = torch.einsum("re,erd->rd", weight, experts(x.expand(4, -1, -1)))
    assert torch.allclose(blend(experts, x, weight), dense, atol=1e-6)
    assert blend(experts, x[:0], weight[:0]).shape == (0, 8)


def test_balance_by_hand():
    """Two rows, two experts, top 1. Apart: f = (1/2, 1/2), so 1. Both at the first, P = (3/4, 1/4): 2 (1 x 3/4)."""
    apart, together = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log(), torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log()
    assert balance(apart, strongest(apart, 1)).item() == pytest.approx(1.0)
    assert balance(together, strongest(together, 1)).item() == pytest.approx(1.5)
    assert balance(apart[:0], apart[:0]).item() == 0


def test_a_soft_mixture_has_a_slot_for_each_task_but_one_stream_of_tokens():
    torch.manual_seed(0)
    body, tokens = SoftMixture(SHAPE), tokens_of([[True, False, True]])
    assert body.mixture.moe.router.phi.shape == (8, 4, 2) and body(tokens).x.shape == (1, 1, 6, 8)


def test_mod_squad_routes_a_token_by_its_task():
    torch.manual_seed(0)
    body, tokens = ModSquad(SHAPE), tokens_of([[True, True, False]])
    x, row = body(tokens).x, body.norm(tokens.x[0, 1])
    for task, router in enumerate(body.routers):
        share = strongest(router(row), 2)
        answers = body.experts(row.expand(4, 1, -1))[:, 0]
        assert share.count_nonzero() == 2
        assert torch.allclose(x[0, task, 1], tokens.x[0, 1] + share @ answers, atol=1e-6)
    assert not x[0, :, 4:].any()


def test_information_of_tasks_and_experts():
    """A task an expert: log T. Tasks alike: 0. Penalised with a minus: it is maximised."""
    apart = torch.eye(3).unsqueeze(1).expand(3, 5, 3)
    alike = torch.tensor([0.2, 0.3, 0.5]).expand(3, 5, 3)
    assert task_information(apart).item() == pytest.approx(np.log(3))
    assert task_information(alike).item() == pytest.approx(0, abs=1e-6)
    assert task_information(apart[:, :0]).item() == 0
    assert ModSquad(SHAPE)(tokens_of([[True] * 3])).penalties["information"] < 0


# Missing inputs


def test_a_laplace_gate_is_proportional_to_exp_of_minus_the_distance():
    gate = LaplaceGate(2, 2)
    gate.centres.data = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    share = gate(torch.tensor([[0.0, 4.0]])).softmax(-1)  # distances 4 and 5
    assert torch.allclose(share, F.normalize(torch.tensor([[-4.0, -5.0]]).exp(), p=1))


def test_an_indicator_stands_exactly_where_an_input_is_missing():
    torch.manual_seed(0)
    body, tokens = FuseMoE(SHAPE), tokens_of([[True, True, False], [True, True, True]])
    before = body(tokens).x
    with torch.no_grad():
        body.indicator[2].add_(1.0)
    assert not torch.isclose(body(tokens).x[0], before[0]).any()
    assert torch.equal(body(tokens).x[1], before[1])
    with torch.no_grad():
        body.indicator[:2].add_(1.0)
    assert torch.equal(body(tokens).x[1], before[1])


def test_a_bank_gives_the_mean_of_its_entries_for_the_inputs_that_are_there():
    """Entry (i, j) holds 10 i + j. Missing 2 with 0 and 1 there: (20 + 21) / 2; missing 0 and 1 with 2 there: 2, 12."""
    bank = Bank(3, 1)
    bank.entries.data = torch.tensor([[[10.0 * i + j] for j in range(3)] for i in range(3)])
    x = torch.tensor([[[7.0], [8.0], [0.0]], [[0.0], [0.0], [9.0]]])
    here = torch.tensor([[True, True, False], [False, False, True]])
    assert bank(x, here).squeeze(-1).tolist() == [[7.0, 8.0, 20.5], [2.0, 12.0, 9.0]]


def test_each_combination_of_inputs_has_an_expert():
    here = torch.tensor([[False, True, True], [True, False, False], [True, True, True]])
    assert expert_of(here, 16).tolist() == [6, 1, 7]
    assert expert_of(here, 4).tolist() == [2, 1, 3]
    assert expert_of(torch.ones(1, 80, dtype=torch.bool), 7).tolist() == [(2**80 - 1) % 7]


def test_complete_exams_balance_experts_and_others_are_pulled_to_theirs():
    body = FlexMoE(SHAPE)
    whole, part = (body(tokens_of([here])).penalties for here in ([True] * 3, [True, False, True]))
    assert whole["combination"] == 0 < whole["balance"]
    assert part["balance"] == 0 < part["combination"]


# Published systems


def test_hazards_add_up():
    """Base 1, hazards 2 and -3: the first horizon gets 1 + 2, the second no more (a hazard is not negative)."""
    head = HazardHead(1, TaskShape("risk", (-2.0, -1.0), 1))
    head.value.weight.data = torch.tensor([[1.0], [2.0], [-3.0]])
    assert torch.allclose(head(torch.ones(1, 1)), torch.tensor([[1.0, 2.0]]), atol=1e-6)


def test_a_state_passes_absent_inputs_unchanged_and_follows_the_order_of_the_others():
    torch.manual_seed(0)
    body, tokens = MModN(SHAPE), tokens_of([[True, False, True]])
    x = body.summary(tokens)[0][0]
    state = body.start
    for stream in (0, 2):
        state = state + body.steps[stream](torch.cat([state, x[stream]]))
    assert torch.allclose(body(tokens).x[0, 0], state, atol=1e-6)
    assert torch.equal(body(tokens_of([[False] * 3])).x[0, 0], body.start)


def dempster(b: torch.Tensor, u: float, c: torch.Tensor, v: float) -> tuple[torch.Tensor, float]:
    """The rule as it is written: beliefs that agree, or of which one doubts, over what does not contradict."""
    conflict = float(b.sum() * c.sum() - (b * c).sum())
    return (b * c + b * v + c * u) / (1 - conflict), u * v / (1 - conflict)


def test_dempsters_rule_by_hand():
    """Evidence (2, 0) and (0, 2): S = 4, beliefs (1/2, 0) and (0, 1/2), doubt 1/2. Conflict 1/4, so beliefs
    (1/4) / (3/4) = 1/3 each and doubt 1/3; S = 2 / (1/3) = 6, evidence 2 each, alpha 3 each."""
    assert torch.allclose(fused_concentration(torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])), torch.tensor([[3.0, 3.0]]))
    nothing = torch.tensor([[[2.0, 1.0], [0.0, 0.0]]])
    assert torch.allclose(fused_concentration(nothing), torch.tensor([[3.0, 2.0]]))


def test_three_opinions_equal_dempsters_rule_applied_twice():
    evidence = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) * 5
    strength = evidence.sum(1) + 4
    belief, doubt = evidence[0] / strength[0], float(4 / strength[0])
    for e, s in zip(evidence[1:], strength[1:]):
        belief, doubt = dempster(belief, doubt, e / s, float(4 / s))
    assert float(belief.sum()) + doubt == pytest.approx(1, abs=1e-6)
    assert torch.allclose(fused_concentration(evidence.unsqueeze(0))[0], belief * 4 / doubt + 1, rtol=1e-4)


@pytest.mark.parametrize(
    "task, opinions",
    [(TaskShape("a", (0.0, 0.0), 0, True), 2), (TaskShape("b", (0.0, 0.0)), 4), (GRADE, 2), (BINARY, 2)],
)
def test_kinds_of_tasks_have_opinions(task, opinions):
    head = EvidenceHead(8, task)
    assert head.value.out_features == opinions
    logits = head(torch.zeros(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    assert logits.shape == (2, len(task.start))
    if not task.exclusive:
        assert torch.allclose(logits[0], torch.tensor(task.start), atol=1e-5)
