"""The segmenter: label sets, rows, experts by modality, and the laws of architecture.md for every variant of it."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch

from m4oe.batch import Batch, Rows
from m4oe.config import PRESETS, Config
from m4oe.errors import UserError
from m4oe.nets.build import build_model
from m4oe.nets.label_sets import experts_of, own_outputs, unified_outputs
from m4oe.nets.masked_images import MaskedImages, enlarged
from m4oe.nets.segmenter import Segmenter, marginal
from m4oe.schema import Schema, TaskSpec
from m4oe.settings import Gate, Phase
from m4oe.study import Task
from m4oe.train.objective import Objective
from tiny import subset, without
from tiny_slices import COMPRISES, SCHEMA, SIZE, slices_batch, slices_model

HARD, GATE = Phase(name="specialise", routing="modality"), Phase(name="gate", routing="gate")
PRETRAIN = Phase(name="pretrain", routing="modality", objective="masked_images")
PLACEMENTS = ("none", "encoder", "decoder", "both")
VARIANTS = {
    **{
        f"{place}, {phase.name}": (slices_model(experts=place), phase) for place in PLACEMENTS for phase in (HARD, GATE)
    },
    "patches": (slices_model(stem="patch"), HARD),
    "a head a task": (slices_model(labels="heads"), GATE),
    "shared expert": (slices_model(shared_expert=True), HARD),
    "gate of pictures": (slices_model(gate=Gate(per="sample")), GATE),
}


def built(model, phase: Phase | None = GATE, schema: Schema = SCHEMA) -> Segmenter:
    torch.manual_seed(0)
    return build_model(model, schema, phase)


@pytest.fixture(params=VARIANTS, scope="module")
def network(request) -> Segmenter:
    return built(*VARIANTS[request.param]).eval()


def loss_of(network: Segmenter, batch: Batch) -> torch.Tensor:
    return Objective(SCHEMA.tasks)(network(batch), batch).total


def test_there_are_variants():
    assert len(VARIANTS) == 12


def test_law_1_permuting_the_batch_changes_nothing(network):
    batch, order = slices_batch(), torch.tensor([3, 0, 5, 1, 4, 2])
    whole, permuted = network(batch), network(subset(batch, order))
    for task, rows in permuted.logits.items():
        then = {int(exam): row for exam, row in zip(whole.logits[task].index, whole.logits[task].values)}
        for exam, row in zip(rows.index, rows.values):
            assert (row.softmax(0) - then[int(order[exam])].softmax(0)).abs().max() < 1e-5


def test_law_1_an_exam_does_not_see_its_neighbours(network):
    batch = slices_batch()
    whole = network(batch)
    for exam in range(3):
        alone = network(subset(batch, torch.tensor([exam])))
        for task, rows in whole.logits.items():
            mine = rows.values[rows.index == exam].softmax(1)
            assert alone.logits[task].values.shape == mine.shape
            assert not len(mine) or (alone.logits[task].values.softmax(1) - mine).abs().max() < 1e-5


def test_law_4_a_batch_without_labels_has_loss_0_and_finite_gradients(network):
    batch = slices_batch()
    network.zero_grad()
    loss = loss_of(network, Batch(batch.exams, batch.inputs, {}))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_law_5_every_parameter_gets_a_gradient(network):
    network.zero_grad()
    loss_of(network, slices_batch()).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert len(list(network.parameters())) > 40


@pytest.mark.parametrize("place", PLACEMENTS)
@pytest.mark.parametrize("labels", ["heads", "unified"])
def test_law_6_the_gate_phase_takes_all_of_specialise_and_adds_gates_alone(place, labels):
    model = slices_model(experts=place, labels=labels, shared_expert=True)
    specialised, gated = built(model, HARD), built(model, GATE)
    found = gated.load_state_dict(specialised.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(fnmatchcase(name, "*.gate.*") for name in found.missing_keys)
    assert len(found.missing_keys) == 3 * {"none": 0, "encoder": 4, "decoder": 2, "both": 6}[place]


def test_a_gate_that_names_the_modality_is_hard_routing():
    """What the experts of phase 1 are worth in phase 2: a gate that is sure gives phase 1's logits."""
    specialised, gated = built(slices_model(), HARD).eval(), built(slices_model(), None).eval()
    gated.load_state_dict(specialised.state_dict(), strict=False)
    batch = without(slices_batch(), "mr", "contrast")
    for name, parameter in gated.named_parameters():
        if fnmatchcase(name, "*.gate.*"):
            torch.nn.init.zeros_(parameter)
            if name.endswith("bias"):
                parameter.data[0] = 200  # the expert of ct
    hard, soft = (net(batch).logits["abdomen"].values for net in (specialised, gated))
    assert torch.allclose(hard, soft, atol=1e-5)


@pytest.mark.parametrize("labels", ["heads", "unified"])
def test_a_task_has_the_exams_that_have_its_picture(labels):
    batch = slices_batch(7)
    prediction = built(slices_model(labels=labels)).eval()(batch)
    assert {task: rows.index.tolist() for task, rows in prediction.logits.items()} == {
        "abdomen": [0, 3, 6],
        "kidneys": [1, 4],
        "liver": [2, 5],
    }
    for task, rows in prediction.logits.items():
        assert rows.values.shape == (len(rows.index), len(COMPRISES[task]), *SIZE)
    only = built(slices_model(labels=labels)).eval()(without(batch, "ct", "mr"), ["liver", "abdomen"]).logits
    assert list(only) == ["liver", "abdomen"] and only["abdomen"].values.shape == (0, 3, *SIZE)
    assert torch.allclose(only["liver"].values, prediction.logits["liver"].values, atol=1e-5)


def test_slices_of_one_exam_in_two_modalities_have_rows_of_their_own():
    x = torch.randn(2, 1, *SIZE)
    both = Batch(("s/0", "s/1"), {"ct": Rows(x, torch.arange(2)), "mr": Rows(x, torch.arange(2))})
    unified = built(slices_model()).eval()(both, ["unified"]).logits["unified"]
    assert unified.index.tolist() == [0, 0, 1, 1]
    assert unified.values.shape == (4, len(SCHEMA.unified), *SIZE)


def test_a_batch_without_pictures_is_refused():
    with pytest.raises(ValueError, match="s/0"):
        built(slices_model())(Batch(("s/0",), {}))


# The unified label set: 0 background, 1 liver, 2 left, 3 right, 4 tumour, 5 vessel.
def test_a_background_is_everything_that_was_not_annotated():
    assert SCHEMA.unified == ("background", "liver", "left", "right", "tumour", "vessel")
    outputs, prior = unified_outputs(SCHEMA)
    assert outputs == {
        "abdomen": [(0, 4, 5), (1,), (2, 3)],
        "kidneys": [(0, 1, 4, 5), (2,), (3,)],
        "liver": [(0, 2, 3), (1,), (4,), (5,)],
    }
    # liver: the mean of 0.1 and 0.2/3; left: of 0.1/2 and 0.1; tumour: 0.2/3.
    assert prior[1:] == pytest.approx([1 / 12, 0.075, 0.075, 0.2 / 3, 0.2 / 3])
    assert sum(prior) == pytest.approx(1)


def test_heads_stand_side_by_side():
    outputs, prior = own_outputs(SCHEMA)
    assert outputs["kidneys"] == [(3,), (4,), (5,)] and outputs["liver"] == [(6,), (7,), (8,), (9,)]
    assert prior == [share for task in SCHEMA.tasks for share in task.prior]


def test_a_class_in_two_of_a_task_is_refused():
    task = SCHEMA.tasks[0].model_copy(update={"comprises": (("background",), ("liver",), ("left", "liver"))})
    with pytest.raises(UserError, match="'liver' is in two of its classes"):
        unified_outputs(SCHEMA.model_copy(update={"tasks": (task,)}))


def spelt(*spellings: str) -> Schema:
    """Tasks "a", "b", ... of one class each, which studies call so."""
    facts = {"kind": "segmentation", "on": "ct", "prior": (0.9, 0.1), "weights": (1.0, 1.0)}
    tasks = []
    for place, name in enumerate(spellings):
        task = Task(kind="segmentation", column="mask", on="ct", classes=["none", name])
        comprises = tuple(map(task.comprises, task.class_names))
        tasks.append(TaskSpec(name=chr(97 + place), classes=("none", name), comprises=comprises, **facts))
    return Schema(streams=SCHEMA.streams, tasks=tuple(tasks))


def test_a_class_is_one_whatever_its_spelling():
    """Were they two, each would be taught as the other's background."""
    schema = spelt("Left kidney", "left_kidney", "LEFT-KIDNEY", "liver")
    assert schema.unified == ("background", "left_kidney", "liver")
    assert unified_outputs(schema)[0] == {**{task: [(0, 2), (1,)] for task in "abc"}, "d": [(0, 1), (2,)]}
    assert schema.tasks[0].classes == ("none", "Left kidney")  # its own word, in its own masks


def test_a_model_of_two_spellings_keeps_its_outputs():
    """One saved when `Liver` and `liver` were two still loads."""
    task = SCHEMA.tasks[0].model_copy(update={"comprises": (("background",), ("Liver",), ("liver",))})
    schema = SCHEMA.model_copy(update={"tasks": (task,)})
    assert Schema.model_validate(schema.model_dump()).unified == ("background", "Liver", "liver")


def test_a_class_is_meant_by_all_its_names():
    """hepar is liver; of "left+right" neither left nor right is the name, and background is no class."""
    tasks = (SCHEMA.tasks[0].model_copy(update={"classes": ("background", "hepar", "left+right")}), *SCHEMA.tasks[1:])
    schema = SCHEMA.model_copy(update={"tasks": tasks})
    assert schema.meant(["Liver"]) == {"liver"} and schema.meant(["left"]) == {"left"}
    assert schema.meant(["hepar", "Right"]) == {"hepar", "liver", "right"}


def test_marginal_logits_by_hand():
    # Outputs of odds 1 : 2 : 3 : 4; a class of the first and the third has odds 4.
    logits = torch.tensor([[1.0, 2, 3, 4]]).log()
    assert torch.allclose(marginal(logits, [(0, 2), (1,), (3,)]).exp(), torch.tensor([[4.0, 2, 4]]))
    assert torch.equal(marginal(logits, [(1,), (2,)]), logits[:, 1:3])
    assert torch.equal(marginal(logits, [(3,), (0,)]), logits[:, [3, 0]])


def test_unified_logits_hold_those_of_every_task():
    network, batch = built(slices_model()).eval(), slices_batch()
    prediction = network(batch, ["unified", *COMPRISES])
    shares = prediction.logits["unified"].values.softmax(1)
    for task, rows in prediction.logits.items():
        if task != "unified":
            own = [shares[rows.index][:, list(members)].sum(1) for members in network.outputs[task]]
            assert torch.allclose(rows.values.softmax(1), torch.stack(own, 1), atol=1e-6)


def test_a_pixel_of_background_says_nothing_between_classes_never_annotated():
    """Of `kidneys`, background comprises liver and tumour: their shares of it stay as they are."""
    logits = torch.tensor([[0.0, 1, 0, 0, -1, 2]], requires_grad=True)
    mine = marginal(logits, unified_outputs(SCHEMA)[0]["kidneys"])
    torch.nn.functional.cross_entropy(mine, torch.tensor([0])).backward()
    apart = [0, 1, 4, 5]  # pushed by their share of the background: none is told to vanish
    push = -logits.grad[0, apart] / logits.detach()[0, apart].softmax(0)
    assert (push > 0).all() and torch.allclose(push, push[0].expand(4))


def test_logits_start_at_the_prior():
    network = built(slices_model(labels="heads"))
    torch.nn.init.zeros_(network.head.weight)
    for task in SCHEMA.tasks:
        mean = network(slices_batch()).logits[task.name].values.softmax(1).mean((0, 2, 3))
        assert torch.allclose(mean, torch.tensor(task.prior), atol=1e-5)


def test_modalities_experts_and_label_sets_are_three_facts():
    one = built(slices_model(expert_of={"ct": 0, "mr": 0}), HARD)
    two = built(slices_model(), HARD)
    for network, experts in ((one, 1), (two, 2)):
        stacks = [p for name, p in network.named_parameters() if fnmatchcase(name, "*.experts.weight_in")]
        assert len(stacks) == 6 and {len(stack) for stack in stacks} == {experts}
        assert {routing.combine.shape for routing in network(slices_batch()).routing.values()} == {(6, 1, experts)}


def test_the_paper_s_preset_has_the_published_size_but_for_the_gates():
    """60.4 million published parameters (PAPERS 2.5), of which the gates, D x D and no gates at all, are 1.95: ours
    have an output for each expert. Heads of 14, 3 and 16 classes, three experts in both halves."""
    names = ("ct", "mr", "cemr")
    streams = [SCHEMA.streams[0].model_copy(update=dict.fromkeys(("name", "input", "modality"), n)) for n in names]
    tasks = [
        SCHEMA.tasks[0].model_copy(
            update={"name": name, "on": name, "classes": ("x",) * count, "prior": (1 / count,) * count}
        )
        for name, count in zip(names, (14, 3, 16))
    ]
    schema = Schema(streams=tuple(streams), tasks=tuple(tasks))
    model = Config.model_validate(PRESETS["paper"]).for_tasks(["segmentation"]).model
    with torch.device("meta"):
        network = build_model(model, schema, GATE)
    counts = {name: p.numel() for name, p in network.named_parameters()}
    ours = sum(count for name, count in counts.items() if fnmatchcase(name, "*.gate.*"))
    widths = [96, 192, 384, 768, 96, 192, 384]
    released = sum(2 * (width**2 + width) for width in widths)
    assert round((sum(counts.values()) - ours + released) / 1e6, 1) == 60.4
    assert round(sum(counts.values()) / 1e6, 1) == 58.5 and ours < 30_000


def test_experts_of_modalities():
    assert experts_of(("ct", "mr", "pet"), {}) == [0, 1, 2]
    assert experts_of(("ct", "mr", "pet"), {"ct": 1}) == [1, 0, 2]
    assert experts_of(("ct", "mr", "pet"), {"pet": 0, "ct": 0}) == [0, 1, 0]
    with pytest.raises(UserError, match="'us', which is no modality"):
        experts_of(("ct", "mr"), {"us": 0})
    with pytest.raises(UserError, match="leaves expert 1 without"):
        experts_of(("ct", "mr"), {"ct": 0, "mr": 2})


def test_a_layer_s_grid_is_its_tokens():
    network = built(slices_model())
    routing = network(slices_batch()).routing
    assert set(routing) == {
        f"{half}.{stage}.{block}"
        for half, stage, block in [("encoder", s, b) for s in (0, 1) for b in (0, 1)]
        + [("decoder", 0, b) for b in (0, 1)]
    }
    for layer, found in routing.items():
        rows, columns = network.grid(layer, SIZE)
        assert found.combine.shape == (6, rows * columns, 2)


def test_parts_match_the_patterns_of_phases():
    names = [name for name, _ in built(slices_model(shared_expert=True)).named_parameters()]
    counts = {
        pattern: sum(fnmatchcase(name, pattern) for name in names)
        for pattern in ("*.gate.*", "*.experts.*", "*.shared.*", "head.*")
    }
    assert counts == {"*.gate.*": 18, "*.experts.*": 24, "*.shared.*": 24, "head.*": 2}


# Masked images.


def test_three_quarters_of_the_windows_are_hidden_whole():
    g = torch.Generator().manual_seed(0)
    hidden = MaskedImages.draw(5, (8, 16), 4, g)
    windows = hidden.view(5, 2, 4, 4, 4).permute(0, 1, 3, 2, 4).flatten(3)
    assert (windows.all(-1) | ~windows.any(-1)).all()
    assert windows.all(-1).sum((1, 2)).tolist() == [6] * 5
    assert len({tuple(one.flatten().tolist()) for one in hidden}) > 1
    assert MaskedImages.draw(2, (3, 3), 4, g).all()  # one window: hidden


def test_hidden_pixels_tell_the_network_nothing():
    network, batch = built(slices_model(), PRETRAIN).eval(), without(slices_batch(), "mr", "contrast")
    seed = torch.Generator().manual_seed(3)
    hidden = enlarged(MaskedImages.draw(2, network.network.grid("encoder.0", SIZE), 4, seed), 4)[
        :, : SIZE[0], : SIZE[1]
    ]
    ct = batch.inputs["ct"]
    shift = torch.where(hidden.unsqueeze(1), 2.0, 0.0)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return network.masked_images(Batch(batch.exams, {"ct": Rows(values, ct.index)}), seed.manual_seed(3))

    # The completion p stays as it is, so that mean (p - x - 2)^2 = mean (p - x)^2 - 4 mean (p - x) + 4, and so on.
    at = [loss(ct.values + k * shift).item() for k in (-1, 0, 1)]
    assert at[0] - 2 * at[1] + at[2] == pytest.approx(2 * 4, abs=1e-4)
    assert loss(ct.values.where(~hidden.unsqueeze(1), 1e3)).item() > 1e5  # and hidden pixels are what is asked for
    assert loss(ct.values).item() == at[1]


def test_every_parameter_but_the_head_s_is_pretrained():
    network = built(slices_model(), PRETRAIN)
    network.masked_images(slices_batch()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert idle == ["head.weight", "head.bias"]


def test_what_is_of_masked_images_alone_has_a_name():
    pretrained, specialised = built(slices_model(), PRETRAIN), built(slices_model(), HARD)
    found = specialised.load_state_dict(pretrained.state_dict(), strict=False)
    assert not found.missing_keys and found.unexpected_keys
    assert all(fnmatchcase(name, "masked.*") for name in found.unexpected_keys)
