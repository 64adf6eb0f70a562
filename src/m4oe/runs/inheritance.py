"""What a growth inherits of the run that it grows: the settings of the network, and how it routes.

A grown model is the old one and more, so that what the old one was is not up to the config that grows it.
"""

from __future__ import annotations

from pathlib import Path

from m4oe.artifact import Artifact, load_artifact
from m4oe.config import Config, flattened
from m4oe.errors import UserError
from m4oe.nets.build import expert_of
from m4oe.runs.facts import run_cohorts
from m4oe.settings import Model

# Keys of `model` that may be written anew: of streams that are new, of training, and of making masks of scores.
NOT_OF_THE_NETWORK = {
    "segmenter.spacing",
    "segmenter.drop_path",
    "segmenter.gate.noise",
    "segmenter.gate.start",
    "segmenter.flips",
    "segmenter.largest_component",
}


def inherited(config: Config) -> Config:
    """`config` with what its first phase inherits, if that grows a run; otherwise as it is.

    Raises UserError where the run holds no segmenter, for a fold of a run or one whose tables are gone, since what
    growing does is measured on its test split, and for what the user has written otherwise than it is there.
    """
    grow = config.phases[0].grow
    if grow is None:
        return config
    old = load_artifact(grow.run)
    if old.model.kind != "segmenter":
        raise UserError(f"phases: grow.from: {grow.run} holds a classifier, and only a segmenter can be grown")
    run_cohorts(grow.run)
    model = _told(old)
    _refuse_another_network(config, model, grow.run)
    phase = config.phases[0]
    if "routing" in phase.model_fields_set and phase.routing != old.phase.routing:
        raise _contradiction(f"phases: routing of {phase.name!r}", phase.routing, old.phase.routing, grow.run)
    return config.inheriting(model, old.phase.routing)


def _told(old: Artifact) -> Model:
    """The model section of `old`, with the expert of each modality told: none moves where a new one is put first."""
    own = old.model.segmenter.model_copy(update={"expert_of": expert_of(old.model, old.schema)})
    return old.model.model_copy(update={"segmenter": own})


def _refuse_another_network(config: Config, model: Model, run: Path) -> None:
    """A key that `model` lacks, such as the expert of a new modality, adds to it."""
    there, here = (flattened(one.model_dump(mode="json")) for one in (model, config.model))
    for key in flattened(config.written.get("model", {})):
        if key in there and key not in NOT_OF_THE_NETWORK and here[key] != there[key]:
            raise _contradiction(f"config: model.{key}", here[key], there[key], run)


def _contradiction(key: str, here: object, there: object, run: Path) -> UserError:
    return UserError(f"{key} is {here}, but {there} in {run}, whose network growing keeps; leave it out")
