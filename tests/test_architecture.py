"""The house of docs/architecture.md, enforced by the rules of house.py. Every rule is shown a planted violation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import house as rules
from house import FLOORS, LONGEST_FUNCTION, House, read_house

FEWEST_FILES = 30

# Every rule, with files that break it.
RULES: Mapping[Callable[[House], Iterator[str]], tuple[Mapping[str, str], ...]] = {
    rules.imports_go_down: (
        {"moe/layer.py": "from m4oe.nets import heads", "nets/heads.py": ""},
        {"data/table.py": "def f():\n    import m4oe.tasks.survival", "tasks/survival.py": ""},
        {"study.py": "import m4oe"},
        {"attic.py": ""},
    ),
    rules.no_relative_imports: ({"moe/layer.py": "from .experts import Experts"},),
    rules.no_cycles: ({"data/a.py": "from m4oe.data import b", "data/b.py": "def f():\n    import m4oe.data.a"},),
    rules.only_the_command_line_prints: (
        {"evaluate.py": "print('done')"},
        {"evaluate.py": "from rich.table import Table"},
    ),
    rules.devices_have_a_home: (
        {"predict.py": "x.to('cuda')"},
        {"predict.py": "x = torch.device('cuda:0')"},
        {"moe/layer.py": "x.cuda()"},
        {"nets/heads.py": "torch.cuda.empty_cache()"},
        {"artifact.py": "def f(device='mps'): ..."},
    ),
    rules.no_torchvision: ({"nets/encoders.py": "def f():\n    from torchvision import models"},),
    rules.nothing_unpickles: (
        {"artifact.py": "import pickle"},
        {"artifact.py": "torch.load(path)"},
        {"artifact.py": "torch.load(path, weights_only=False)"},
        {"data/readers.py": "np.load(path, allow_pickle=True)"},
        {"study.py": "yaml.load(text)"},
    ),
    rules.nothing_evaluates_text: ({"config.py": "eval(text)"}, {"config.py": "exec(text)"}),
    rules.facts_know_no_torch: (
        {"study.py": "def f():\n    import torch"},
        {"config.py": "from m4oe.batch import Rows", "batch.py": "from torch import Tensor"},
    ),
    rules.lightning_lives_in_train: ({"predict.py": "def f():\n    import lightning.pytorch"},),
    rules.names_mean_something: ({"data/utils.py": ""}, {"nets/_base.py": ""}, {"common/dice.py": ""}),
    rules.slow_libraries_wait: (
        {"tasks/segmentation.py": "from monai.metrics import DiceMetric"},
        {"report/figures.py": "try:\n    import matplotlib.pyplot as plt\nexcept ImportError: ..."},
    ),
    rules.one_file_sees_config_and_modules: (
        {
            "train/phases.py": "import m4oe.config\nfrom m4oe.nets.heads import Head",
            "config.py": "",
            "nets/heads.py": "",
        },
        {"nets/heads.py": "from m4oe.config import Config", "config.py": ""},
        {"nets/heads.py": "from m4oe.settings import Model", "settings.py": ""},
    ),
    rules.the_mixture_stands_alone: (
        {"moe/layer.py": "import einops"},
        {"moe/layer.py": "from m4oe.errors import UserError"},
    ),
    rules.functions_are_short: ({"demo.py": "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION},),
}
# What looks like a violation and is none.
INNOCENT = {
    "train/module.py": "import lightning.pytorch\nfrom m4oe.nets.build import build\nfrom m4oe.config import Config",
    "nets/build.py": "from m4oe.config import Config\nfrom m4oe.nets.heads import Head",
    "nets/heads.py": '"""On cuda and mps alike."""\nfrom m4oe.moe.layer import MToE\nfrom m4oe import __version__',
    "report/figures.py": "def draw(model):\n    import matplotlib\n    model.eval()",
    "artifact.py": "state = torch.load(path, weights_only=True)\narray = np.load(path, allow_pickle=False)",
    "study.py": "if TYPE_CHECKING:\n    from sklearn.base import BaseEstimator\nfrom m4oe.errors import UserError",
    "config.py": "",
    "errors.py": "",
    "moe/layer.py": "import math\nimport torch\nfrom m4oe.batch import Rows\nfrom m4oe.moe.experts import Experts",
    "moe/experts.py": "",
    "batch.py": "import torch",
    "device.py": "import torch\ntorch.cuda.is_available()\nname = 'cuda'",
    "cli.py": "import typer\ndef main():\n    from m4oe.data.base_rates import rates\n    print('cuda')",
    "data/base_rates.py": "",
}
PLANTED = [(rule, files) for rule, plants in RULES.items() for files in plants]


@pytest.fixture(scope="module")
def house(repository: Path) -> House:
    return read_house(repository / "src" / "m4oe")


def write_house(folder: Path, files: Mapping[str, str]) -> House:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return read_house(folder)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(house, rule):
    assert list(rule(house)) == []


def test_the_house_was_found(house):
    assert len(house.sources) >= FEWEST_FILES, [str(source.path) for source in house.sources]


def test_every_room_on_the_plan_exists(house):
    planned = {room for floor in FLOORS for rooms in floor for room in rooms.split()}
    assert planned == {source.room for source in house.sources}


@pytest.mark.parametrize(("rule", "files"), PLANTED, ids=[f"{rule.__name__}-{min(files)}" for rule, files in PLANTED])
def test_a_planted_violation_is_found(tmp_path, rule, files):
    assert list(rule(write_house(tmp_path, files)))


def test_every_rule_has_a_planted_violation():
    assert len(RULES) == 15 and all(RULES.values())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_an_innocent_house_is_left_in_peace(tmp_path, rule):
    assert list(rule(write_house(tmp_path, INNOCENT))) == []
