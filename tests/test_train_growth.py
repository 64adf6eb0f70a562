"""Growing: what a model was stays as it is, bit for bit; what is new learns."""

from __future__ import annotations

import pytest
import torch

from m4oe.batch import Batch, Rows
from m4oe.errors import UserError
from m4oe.nets.build import build_model
from m4oe.schema import Schema
from m4oe.settings import Gate, Phase
from m4oe.train.growth import freeze_grown, load_grown
from m4oe.train.module import Schedule, Training
from m4oe.train.objective import Objective
from tiny_slices import SCHEMA, SIZE, slices_batch, slices_model

PET = SCHEMA.streams[0].model_copy(update={"name": "pet", "input": "pet", "modality": "pet"})
LESION = SCHEMA.tasks[2].model_copy(
    update={"name": "lesion", "on": "pet", "comprises": (("background",), ("liver",), ("hot",), ("cold",))}
)
GROWN = SCHEMA.grown(Schema(streams=(PET,), tasks=(LESION,)))


def pets(size: int = 4) -> Batch:
    g, everyone = torch.Generator().manual_seed(5), torch.arange(size)
    target = torch.randint(0, 4, (size, *SIZE), generator=g)
    values = torch.randn(size, 1, *SIZE, generator=g)
    return Batch(
        tuple(f"p/{n}" for n in range(size)), {"pet": Rows(values, everyone)}, {"lesion": Rows(target, everyone)}
    )


# Keys of a segmenter's section, and the routing of the phase.
NETWORKS = {
    "unified": ({}, "gate"),
    "heads": ({"labels": "heads"}, "gate"),
    "patch stem": ({"stem": "patch"}, "gate"),
    "top 1": ({"gate": Gate(top_k=1)}, "gate"),
    "top 2 of 3": ({"gate": Gate(top_k=2)}, "gate"),
    "a gate per sample": ({"gate": Gate(per="sample")}, "gate"),
    "top 1 per sample": ({"gate": Gate(per="sample", top_k=1)}, "gate"),
    "a shared expert": ({"shared_expert": True}, "gate"),
    "experts in the decoder": ({"experts": "decoder"}, "gate"),
    "by modality": ({}, "modality"),
    "all at once": (
        {"labels": "heads", "stem": "patch", "shared_expert": True, "gate": Gate(per="sample", top_k=2)},
        "gate",
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def grown(request):
    """(the old network, the grown one after a few steps on the new modality, what its parameters were before)"""
    own, routing = NETWORKS[request.param]
    model, phase = slices_model(**own), Phase(routing=routing)
    torch.manual_seed(0)
    old = build_model(model, SCHEMA, phase).eval()
    torch.manual_seed(1)
    new = build_model(model, GROWN, phase)
    load_grown(new, old.state_dict())
    undecayed = freeze_grown(new, old.state_dict())
    before = {name: value.clone() for name, value in new.state_dict().items()}
    training = Training(
        new,
        Objective(GROWN.tasks, balance_weight=0.01),
        GROWN,
        Schedule(1, None, 0.0),
        phase="grow",
        seed=0,
        learning_rate=1e-2,
        weight_decay=0.1,
        modality_dropout=0.0,
        undecayed=undecayed,
    )
    optimizer = training.configure_optimizers()
    for _ in range(3):
        optimizer.zero_grad()
        training._losses(pets())[0].total.backward()
        optimizer.step()
    return old, new.eval(), before


def test_a_grown_schema_has_the_old_in_front():
    assert GROWN.streams[: len(SCHEMA.streams)] == SCHEMA.streams and GROWN.modalities == (*SCHEMA.modalities, "pet")
    assert GROWN.tasks[: len(SCHEMA.tasks)] == SCHEMA.tasks and GROWN.unified[: len(SCHEMA.unified)] == SCHEMA.unified


def test_a_task_of_one_name_must_have_its_classes():
    other = SCHEMA.tasks[0].model_copy(update={"classes": ("background", "liver", "spleen")})
    with pytest.raises(UserError, match="other classes in the model that is grown"):
        SCHEMA.grown(Schema(streams=(), tasks=(other,)))


def test_a_closed_gate_predicts_what_the_old_model_predicted_bit_for_bit(grown):
    old, new, _ = grown
    new.restrict(experts=len(SCHEMA.modalities), outputs=len(old.head.bias))
    batch = slices_batch()
    tasks = [task.name for task in SCHEMA.tasks]
    with torch.no_grad():
        then, now = old(batch, tasks), new(batch, tasks)
    assert all(torch.equal(then.logits[task].values, now.logits[task].values) for task in tasks)
    new.restrict()
    with torch.no_grad():
        opened = new(batch, tasks)
    assert any(not torch.equal(then.logits[task].values, opened.logits[task].values) for task in tasks)


def test_a_closed_model_answers_for_what_it_was_and_says_so_of_what_is_new(grown):
    old, new, _ = grown
    new.restrict(experts=len(SCHEMA.modalities), outputs=len(old.head.bias))
    batch = Batch(pets().exams, pets().inputs, {})
    with torch.no_grad():
        assert new(batch).logits.keys() == {task.name for task in SCHEMA.tasks}
        with pytest.raises(ValueError, match="task 'lesion' has a class that is closed"):
            new(batch, ["lesion"])
    new.restrict()
    with torch.no_grad():
        assert "lesion" in new(batch).logits


def test_what_is_old_did_not_change_and_what_is_new_did(grown):
    old, new, before = grown
    changed = set()
    for name, value in new.state_dict().items():
        if name in old.state_dict():
            block = tuple(slice(length) for length in old.state_dict()[name].shape)
            assert torch.equal(value[block], old.state_dict()[name]), name
        if not torch.equal(value, before[name]):
            changed.add(name.rpartition(".")[2])
    assert {"weight_in", "weight_out", "weight"} <= changed


def test_a_new_expert_starts_as_a_copy_of_the_first():
    torch.manual_seed(0)
    old, new = build_model(slices_model(), SCHEMA, Phase()), build_model(slices_model(), GROWN, Phase())
    load_grown(new, old.state_dict())
    experts = [(name, value) for name, value in new.state_dict().items() if ".experts." in name]
    assert len(experts) >= 8
    assert all(torch.equal(value[-1], value[0]) for _, value in experts)


def test_another_network_cannot_be_grown():
    old = build_model(slices_model(width=32), SCHEMA, Phase())
    with pytest.raises(UserError, match="for which its grown form has no place"):
        load_grown(build_model(slices_model(), GROWN, Phase()), old.state_dict())
