"""Analyses that ask the model: routing, synergy, gradients, probes. Networks and answers are written down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from m4oe.analyses import rerouting, synergy
from m4oe.analyses.answers import answers
from m4oe.analyses.competition import Probe, compared, competition_of, macro_auroc, probes_of
from m4oe.analyses.gradients import _cosines, _summed, gradients_of, layers_of, task_gradients
from m4oe.analyses.profiles import binned, profiles, references
from m4oe.analyses.routing import _gain, _in_effect, _load, routing_of
from m4oe.analyses.synergy import pair_of, synergy_of
from m4oe.artifact import Artifact
from m4oe.batch import Batch, Prediction, Routing, Rows
from m4oe.data.dataset import Sample
from m4oe.errors import UserError
from m4oe.explain import decompose
from m4oe.moe import SoftRouter
from m4oe.nets.build import build_model
from m4oe.report.analyses import SECTIONS
from m4oe.schema import Schema
from planted import INPUTS, YES, planted
from test_evaluate_calibration import exams_of
from tiny import MODEL, SCHEMA, TASKS, full_batch, without


def coins(count, seed=0):
    """Exams of three fair coins, +1 or -1, and whether the first two differ."""
    values = np.random.default_rng(seed).choice([-1.0, 1.0], (count, 3))
    return values, (values[:, 0] != values[:, 1]).astype(int)


def of_coins(answer, sizes=(("train", 80), ("validation", 60), ("test", 120))):
    drawn = {split: coins(size, seed) for seed, (split, size) in enumerate(sizes)}
    return planted({split: v for split, (v, _) in drawn.items()}, {split: y for split, (_, y) in drawn.items()}, answer)


# ---- answers


def test_answers_of_every_kind():
    targets = {
        "cancer": torch.tensor(1), "type": torch.tensor(2), "density": torch.tensor(0),
        "findings": torch.tensor([1.0, float("nan")]), "risk": torch.tensor([1.5, 1.0]),
    }  # fmt: skip
    samples = [Sample("s", "a", "a", {}, targets), Sample("s", "b", "b", {}, {"risk": torch.tensor([1.5, 0.0])})]
    found = {task.name: answers(task, samples) for task in TASKS if task.kind != "segmentation"}
    assert {name: {key: list(value) for key, value in one.items()} for name, one in found.items()} == {
        "cancer": {"": [1, -1]}, "type": {"": [2, -1]}, "density": {"": [0, -1]},
        "findings": {"m": [1, -1], "c": [-1, -1]}, "risk": {"by 2": [1, -1]},
    }  # fmt: skip


def test_who_is_followed_to_the_last_horizon_has_no_event():
    risk = next(task for task in TASKS if task.name == "risk")
    labels = [(2.0, 0.0), (2.5, 1.0), (2.0, 1.0), (1.9, 0.0)]
    samples = [Sample("s", "a", "a", {}, {"risk": torch.tensor(label)}) for label in labels]
    assert list(answers(risk, samples)["by 2"]) == [0, 0, 1, -1]


# ---- synergy


def test_a_pair_that_only_together_decides_is_all_synergy():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 400))
    found = pair_of((a ^ b, a, b), np.arange(400).astype(str))
    assert found["synergy"]["value"] == pytest.approx(1, abs=0.02) and found["p"] < 0.01
    assert found["synergy"]["low"] > 0.9
    assert found["redundancy"]["value"] == pytest.approx(0, abs=0.02)


def test_a_pair_that_says_nothing_says_nothing_beyond_chance():
    rng = np.random.default_rng(1)
    y, a, b = rng.integers(0, 3, (3, 120))
    found = pair_of((y, a, b), np.arange(120).astype(str))
    assert abs(found["synergy"]["value"]) < 0.06 and found["p"] > 0.05
    assert found["synergy"]["low"] < 0 < found["synergy"]["high"]


def test_the_planted_pair_is_ranked_first():
    """The network answers by the product of the first two inputs: each alone says nothing, and moves nothing."""
    found = synergy_of(of_coins(lambda values: -3 * values[:, 0] * values[:, 1] + 0.5 * values[:, 2]))
    first, second = found["tasks"]["y"][:2]
    assert first["inputs"] == ["first", "second"]
    assert first["synergy"]["value"] == pytest.approx(1, abs=0.1) and first["p"] < 0.01
    assert second["synergy"]["value"] < 0.2


def test_an_input_that_decides_alone_is_unique():
    sizes = (("validation", 60), ("test", 120))
    drawn = {split: coins(size, seed)[0] for seed, (split, size) in enumerate(sizes)}
    labels = {split: (values[:, 1] > 0).astype(int) for split, values in drawn.items()}
    pairs = synergy_of(planted(drawn, labels, lambda values: 2 * values[:, 1]))["tasks"]["y"]
    pair = next(pair for pair in pairs if pair["inputs"] == ["first", "second"])
    assert pair["unique_2"]["value"] == pytest.approx(1, abs=0.05)
    assert abs(pair["synergy"]["value"]) < 0.05


def test_a_profile_depends_on_its_own_input_alone():
    subject = of_coins(lambda values: values[:, 0] * (1 + values[:, 1]) + values[:, 2])
    found = profiles(subject, "test", references(subject))["first"]["y"]
    values = torch.cat([part.tokens.x for part in subject.encoded("test")])[:, 0, 0].numpy()
    assert len(np.unique(found[values > 0], axis=0)) == 1 and len(np.unique(found[values < 0], axis=0)) == 1


def noisy(count=120):
    """Answers of four kinds, half of them by chance, and two sources of three bins that go together."""
    rng = np.random.default_rng(3)
    a = rng.integers(0, 3, count)
    b = np.where(rng.random(count) < 0.7, a, rng.integers(0, 3, count))
    return np.where(rng.random(count) < 0.5, (a + b) % 4, rng.integers(0, 4, count)), a, b


def test_synergy_is_that_of_the_decomposition_within_the_tolerance():
    """Of the counts themselves, decomposed alone and exactly; fifty sweeps are not enough."""
    codes = noisy()
    found, sure = synergy._decomposed(counts := synergy._counts(codes, np.ones((1, 120))))
    exact = decompose(counts[0]).synergy / np.log(2)
    assert sure and exact - synergy.TOLERANCE / np.log(2) <= found.synergy[0] <= exact + 1e-4


def test_what_has_not_converged_is_said_not_to_have(monkeypatch):
    patients = np.arange(120).astype(str)
    assert pair_of(noisy(), patients)["converged"]
    monkeypatch.setattr(synergy, "SWEEPS", 10)
    pair = pair_of(noisy(), patients)
    assert not pair["converged"]
    content = {"bins": 3, "tolerance": 0.0014, "tasks": {"y": [{"inputs": ["a", "b"], "answer": "", **pair}]}}
    page = str(SECTIONS["synergy"][1](content))
    assert "a + b*" in page and "*: not converged; these numbers may be off by more than 0.0014 bits" in page
    content["tasks"]["y"][0]["converged"] = True
    assert "converged" not in str(SECTIONS["synergy"][1](content))


def test_few_exams_are_not_decomposed():
    assert synergy_of(of_coins(lambda values: values[:, 0], (("validation", 60), ("test", 39)))) is None


def test_bins_are_the_nearest_centre_and_absent_is_none():
    fitted = np.array([[0.0], [0.1], [5.0], [5.1], [9.9], [10.0]])
    places = binned(fitted, np.array([[0.2], [4.0], [np.nan], [11.0], [0.0]]))
    assert places[2] == -1 and places[0] == places[4]
    assert len({places[0], places[1], places[3]}) == 3


# ---- routing


def routed(present):
    torch.manual_seed(0)
    return SoftRouter(8, 3, slots=2)(torch.randn(*present.shape, 8), present)


PRESENT = torch.tensor([[True, True, True, False], [True, True, False, False], [True, True, True, True]])


def test_routing_of_oneself_is_unchanged():
    routing = routed(PRESENT)
    same = rerouting.of_partners(torch.arange(3))(routing, PRESENT)
    assert torch.allclose(same.dispatch, routing.dispatch) and torch.equal(same.combine, routing.combine)


@pytest.mark.parametrize("change", [rerouting.uniform, rerouting.of_partners(torch.tensor([1, 2, 0]))])
def test_changed_routing_reads_present_tokens_alone_and_sums_as_before(change):
    routing = routed(PRESENT)
    other = change(routing, PRESENT)
    for part in (other.dispatch, other.combine):
        assert not part[~PRESENT].any()
    assert torch.allclose(other.dispatch.sum(1), torch.ones(3, 3, 2))
    assert torch.allclose(other.combine.sum((2, 3)), routing.combine.sum((2, 3)))


def test_uniform_routing_by_hand():
    """Two present tokens: slots read each by a half; six slots: a token takes a sixth of each."""
    other = rerouting.uniform(routed(PRESENT), PRESENT)
    assert torch.allclose(other.dispatch[1, :2], torch.tensor(0.5)) and torch.allclose(
        other.combine[1, 0], torch.tensor(1 / 6)
    )


def test_a_partner_has_what_the_exam_has_where_there_is_one():
    for seed in range(5):
        chosen = rerouting.partners(PRESENT, np.random.default_rng(seed)).tolist()
        assert chosen[0] == 2 and chosen[1] in (0, 2) and chosen[2] in (0, 1)


def test_routing_is_itself_again_afterwards():
    network = build_model(MODEL, SCHEMA).eval()
    batch = full_batch()
    before = network(batch).logits["cancer"].values
    routers = rerouting.soft_routers(network)
    assert {"shared.router"} <= routers.keys() and len(routers) > 1
    with rerouting.rerouted(list(routers.values()), rerouting.uniform):
        assert not torch.equal(network(batch).logits["cancer"].values, before)
    assert torch.equal(network(batch).logits["cancer"].values, before)


def test_load_of_experts_by_hand():
    """Two experts, .75 and .25: exp(H) = 1.755; one alone: 1, a collapse of ten."""
    assert _in_effect(np.array([[3.0, 1.0]])) == pytest.approx([1.7548], abs=1e-4)
    found = _load(np.tile([1.0] + [0.0] * 9, (12, 1)), np.arange(12).astype(str))
    assert found["collapsed"] and found["effective"]["value"] == pytest.approx(1)
    assert not _load(np.ones((12, 10)), np.arange(12).astype(str))["collapsed"]


class Told(SoftRouter):
    """A router of one expert and slot, which reads the token of size 1."""

    def forward(self, x, present):
        looked = (x.abs() == 1).float().unsqueeze(-1)
        return Routing(looked, torch.ones_like(looked), None)


class Looking(nn.Module):
    """Says yes where what its slot reads is above 0: tokens count by their sign."""

    def __init__(self):
        super().__init__()
        self.shared = nn.ModuleDict({"router": Told(1, 1)})

    def decide(self, tokens, pictures):
        routing = self.shared["router"](tokens.x, tokens.present)
        said = torch.einsum("bnes,bnd->bd", routing.dispatch, tokens.x.sign())
        return Prediction({"y": Rows(said.mul(6).round(), torch.arange(len(said)))})  # equal means are equal


def gains_of(values, labels):
    """What trained routing gains in task y: {(layers, change): estimate}, of a network that looks at size 1."""
    subject = planted({"test": values}, {"test": labels}, lambda values: values[:, 0])
    subject = replace(subject, artifact=Artifact(Looking(), subject.artifact.model, subject.artifact.schema))
    changes = routing_of(subject)["changes"]
    return {(layer, change): gains["y"] for layer, found in changes.items() for change, gains in found.items()}


def looked_at(places, others, count=150):
    """(P, 3) tokens and labels: the token at `places` (P,) is the label's sign; others, of size 3, have `others`'."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, count)
    sign = 2.0 * labels - 1
    values = 3 * (sign[:, None] * np.ones((1, 3)) if others == "same" else rng.choice([-1.0, 1.0], (count, 3)))
    values[np.arange(count), places(rng, count)] = sign
    return values, labels


def anywhere(rng, count):
    return rng.integers(0, 3, count)


def first(rng, count):
    return np.zeros(count, int)


def test_routing_that_finds_what_tells_gains_over_that_of_others_and_over_none():
    """AUROC 1 with it. Another exam's routing finds the telling token in a third of exams, and a coin in the others: it
    is right in 2/3, which is AUROC 2/3. None sums the three signs."""
    values, labels = looked_at(anywhere, "coins")
    gains = gains_of(values, labels)
    assert gains.keys() == {(layer, change) for layer in ("shared", "all") for change in ("permuted", "uniform")}
    for (_, change), gain in gains.items():
        assert gain["metric"] == "auroc" and gain["n"] == 150 and gain["low"] > 0, change
    assert gains["shared", "permuted"]["value"] == pytest.approx(1 / 3, abs=0.05)
    assert gains["shared", "uniform"]["value"] == pytest.approx(1 - roc_auc_score(labels, np.sign(values).sum(1)))


def test_routing_among_tokens_that_all_tell_gains_nothing():
    """It looks elsewhere in each exam, and might look anywhere."""
    for gain in gains_of(*looked_at(anywhere, "same")).values():
        assert (gain["value"], gain["low"], gain["high"]) == (0, 0, 0)


def test_routing_that_is_the_same_for_all_gains_over_none_alone():
    gains = gains_of(*looked_at(first, "coins"))
    assert gains["all", "permuted"]["value"] == 0 and gains["all", "uniform"]["low"] > 0


def test_a_gain_is_the_mean_over_draws():
    """Of one draw that loses something, and one that is as good as the trained: half of it."""
    target = np.arange(12) % 2
    right, worse = 0.25 + 0.5 * target, np.where(np.arange(12) < 6, 0.5, 0.25 + 0.5 * target)
    exams = [exams_of("binary", target, np.stack([1 - p, p], 1)) for p in (right, worse)]
    alone, both = _gain(exams[0], exams[1:]), _gain(exams[0], exams)
    assert 0 < both["value"] == pytest.approx(alone["value"] / 2) and both["high"] == pytest.approx(alone["high"] / 2)


def test_a_model_without_soft_routers_has_no_routing():
    assert routing_of(of_coins(lambda values: values[:, 0])) is None


# ---- gradients


def test_cosines_by_hand_over_what_both_tasks_reach():
    ones, turned = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    gradients = {"a": {"l.w": ones, "only.a": ones}, "b": {"l.w": turned}, "c": {"l.w": torch.zeros(2)}}
    assert _cosines(gradients, {"l": ["l.w"], "only": ["only.a"]}) == {("a", "b", "l"): pytest.approx(-(0.5**0.5))}


def test_conflict_and_accord_are_shares_of_batches():
    found = _summed(np.array([-0.5, -0.005, 0.3, 0.2]))
    assert (found["conflict"], found["accord"]) == (0.25, 0.5)
    assert found["cosine"]["value"] == pytest.approx(-0.00125) and found["cosine"]["low"] is None


class Linear(nn.Module):
    """One shared layer of two weights, both 0; task a reads the first input, task b the second."""

    def __init__(self):
        super().__init__()
        self.shared = nn.ModuleDict({"layer": nn.Linear(2, 1, bias=False)})
        nn.init.zeros_(self.shared["layer"].weight)

    def forward(self, batch):
        rows = {task: batch.inputs[name] for task, name in (("a", "first"), ("b", "second"))}
        return Prediction({task: Rows(self.shared["layer"](x.values), x.index) for task, x in rows.items()})


@pytest.mark.parametrize(
    ("second", "label", "cosine"),
    [((1.0, 0.0), 1, 1), ((1.0, 0.0), 0, -1), ((0.0, 1.0), 1, 0), ((1.0, 1.0), 1, 0.5**0.5), ((3.0, 4.0), 0, -0.6)],
)
def test_cosines_of_tasks_whose_gradients_are_known(second, label, cosine):
    """At logit 0 the gradient is (1/2 - label) x: of task a, of x = (1, 0) and label 1, (-1/2, 0)."""
    a, b = (YES.model_copy(update={"name": name}) for name in "ab")
    subject = planted({}, {}, lambda values: values[:, 0])
    subject = replace(subject, artifact=Artifact(Linear(), MODEL, Schema(streams=(), tasks=(a, b))))
    inputs = {"first": torch.tensor([[1.0, 0.0]]), "second": torch.tensor([second])}
    targets = {"a": torch.tensor([1]), "b": torch.tensor([label])}
    rows = [{name: Rows(part, torch.tensor([0])) for name, part in of.items()} for of in (inputs, targets)]
    network = subject.network
    found = _cosines(task_gradients(subject, network, Batch(("s/0",), *rows)), layers_of(network))
    assert found == {("a", "b", "shared.layer"): pytest.approx(cosine, abs=1e-6)}


def test_gradients_of_every_task_reach_the_shared_experts():
    network = build_model(MODEL, SCHEMA).eval()
    subject = planted({}, {}, lambda values: values[:, 0])
    subject = type(subject)(Artifact(network, MODEL, SCHEMA), (), subject.splits, subject.folder)
    found = task_gradients(subject, network, without(full_batch(), "photo"))
    assert found.keys() == {"cancer", "type", "findings", "density", "risk"}
    shared = layers_of(network)["shared.experts"]
    assert all(set(shared) <= parts.keys() for parts in found.values())
    pairs = {(a, b) for a, b, layer in _cosines(found, layers_of(network)) if layer == "shared.experts"}
    assert len(pairs) == 10  # of five tasks


def test_one_task_has_no_one_to_disagree_with():
    assert gradients_of(of_coins(lambda values: values[:, 0])) is None


# ---- probes


def test_a_probe_finds_what_an_encoder_knows():
    """The label is the sign of the second token; the other two are coins."""
    drawn = {
        split: coins(size, seed)[0]
        for seed, (split, size) in enumerate((("train", 80), ("validation", 40), ("test", 60)))
    }
    labels = {split: (values[:, 1] > 0).astype(int) for split, values in drawn.items()}
    subject = planted(drawn, labels, lambda values: values[:, 1])
    found = competition_of(subject)["probes"]
    assert found.keys() == set(INPUTS)
    assert found["second"]["y"]["value"] == 1.0 and found["second"]["y"]["n"] == 60
    assert abs(found["first"]["y"]["value"] - 0.5) < 0.2


def test_an_encoder_that_lost_is_behind_the_one_trained_alone():
    rng = np.random.default_rng(0)
    labels = {split: rng.integers(0, 2, size) for split, size in (("train", 80), ("validation", 40), ("test", 60))}
    knows = {split: np.stack([2.0 * y - 1, 0 * y, 0 * y], 1) for split, y in labels.items()}
    noise = {split: rng.normal(size=(len(y), 3)) for split, y in labels.items()}
    joint, alone = (planted(values, labels, lambda values: values[:, 0]) for values in (noise, knows))
    ours, theirs = (probes_of(each, "first")["y"] for each in (joint, alone))
    found = compared(ours, theirs)
    assert found["alone"]["value"] == 1.0 and found["difference"]["high"] < 0
    some = np.arange(10, 60)  # a run may see fewer exams: those that both have seen are compared
    fewer = Probe(
        theirs.auroc, *(part[some] for part in (theirs.positive, theirs.score, theirs.exams, theirs.patients))
    )
    assert compared(ours, fewer)["joint"]["n"] == 50
    assert compared(ours, replace(fewer, exams=np.array([f"other/{n}" for n in some]))) is None
    with pytest.raises(UserError, match="same splits"):
        compared(ours, replace(theirs, positive=1 - theirs.positive))


def test_macro_auroc_leaves_out_missing_labels():
    positive = np.array([[1, 0], [0, -1], [1, 1]])
    score = np.array([[0.9, 0.8], [0.1, 0.99], [0.5, 0.2]])
    assert macro_auroc(positive, score, np.ones((1, 3))) == pytest.approx([(1.0 + 0.0) / 2])
