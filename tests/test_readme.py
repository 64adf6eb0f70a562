"""README and docs/ are run as they stand; every config and study that ships is read; the config page is complete."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from house import read_house
from m4oe.compare import load_comparison
from m4oe.config import PRESETS, config_keys, dump_config, load_config
from m4oe.settings import Phase
from m4oe.study import load_study

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
FEWEST = {"bash": 3, "python": 4, "yaml": 2}  # blocks that are run, in all documents
FENCE = re.compile(r"(?P<before>[^\n]*\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: \S.+ -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; `line` is where its fence stands."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks_of(document: Path, text: str | None = None) -> list[Block]:
    """The blocks that are to be run: those without a comment `<!-- not run: REASON -->` right above."""
    text = document.read_text(encoding="utf-8") if text is None else text
    found = []
    for match in FENCE.finditer(text):
        if not NOT_RUN.match(match["before"] or ""):
            line = text.count("\n", 0, match.start("language")) + 1
            found.append(Block(document, line, match["language"], match["text"]))
    return found


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
YAML = [block for block in BLOCKS if block.language == "yaml"]
SHIPPED = [path for folder in ("src", "docs", "benchmarks") for path in sorted((REPOSITORY / folder).rglob("*.yaml"))]


def code_of(block: Block) -> str:
    """What is run of a block: nothing of YAML, and of bash all but `make` and comments."""
    if block.language != "bash":
        return block.text if block.language == "python" else ""
    lines = [line for line in block.text.splitlines() if not line.startswith(("make ", "#"))]
    return "\n".join(lines).strip()


def run_all(blocks: list[Block], folder: Path) -> int:
    """Runs the code of blocks in their order in `folder`, the Python of a document in one session; how many ran."""
    session: dict[str, object] = {}
    blocks = [block for block in blocks if code_of(block)]
    for block in blocks:
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, str(block.document), "exec"), session)
            continue
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", code_of(block)],
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return len(blocks)


def test_blocks_were_found():
    found = {language: sum(block.language == language for block in BLOCKS) for language in FEWEST}
    assert all(found[language] >= fewest for language, fewest in FEWEST.items()), found
    assert {block.language for block in BLOCKS} == set(FEWEST)


def test_a_block_is_found_by_its_fence_and_exempt_by_a_reason():
    text = (
        "a\n```bash\nls\n```\n<!-- not run: slow -->\n```python\n1/0\n```\n<!-- not run: -->\n```python\nx = 1\n```\n"
    )
    assert [(block.line, block.text) for block in blocks_of(Path("a.md"), text)] == [(2, "ls\n"), (10, "x = 1\n")]


def test_the_readme_walks_from_a_table_to_a_report(tmp_path, monkeypatch):
    """Every block of the README in its order, on a small generated cohort in place of the reader's own table."""
    from m4oe.data.phantoms import write_abdomen, write_breast

    scans = write_abdomen(tmp_path / "abdomen", patients=7, size=48)[0].parent
    shutil.copytree(scans, tmp_path / "scans", ignore=shutil.ignore_patterns("*.yaml", "*.csv"))
    write_breast(tmp_path, exams=60, seed=11, missing_inputs=0.0, missing_labels=0.0).unlink()
    shutil.copy(min((tmp_path / "pictures").glob("*_ffdm_cc.png")), tmp_path / "left_cc.png")
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "train.max_minutes=60" in text  # the hour that a reader has; here ten seconds
    run_all(blocks_of(REPOSITORY / "README.md", text.replace("max_minutes=60", "max_minutes=0.17")), tmp_path)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "predicted" / "predictions.csv").is_file()
    assert len(list((tmp_path / "segmented" / "masks").glob("*.nii.gz"))) == 7


RUN = [document for document in DOCUMENTS[1:] if any(map(code_of, blocks_of(document)))]


def test_pages_with_code_were_found():
    assert len(RUN) >= 3


@pytest.mark.parametrize("document", RUN, ids=lambda document: document.name)
def test_a_page_runs_as_it_stands(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_all(blocks_of(document), tmp_path) > 0


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for block in BLOCKS for name in re.findall(r"^make ([\w-]+)", block.text, re.MULTILINE)}
    assert {"demo", "test", "test-slow", "format"} <= named <= targets


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_in_a_page_is_a_study_or_a_config(block, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text(block.text, encoding="utf-8")
    if block.document.name == "study.md":
        assert load_study(file).inputs
    elif block.document.name == "compare.md":
        assert load_comparison(file).variants
    else:
        assert load_config(file)


def test_every_shipped_config_and_study_is_read(tmp_path):
    assert len(PRESETS) + len(SHIPPED) >= 3
    for preset in PRESETS:
        config = load_config(overrides=[f"model.preset={preset}"])
        (tmp_path / "resolved.yaml").write_text(dump_config(config), encoding="utf-8")
        assert load_config(tmp_path / "resolved.yaml") == config
    for path in SHIPPED:
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert (load_study if "inputs" in keys else load_comparison if "seeds" in keys else load_config)(path)


def test_every_key_of_a_config_has_its_row_under_its_heading():
    """A key `model.shared.hidden` is a row `hidden` of the section `model.shared`."""
    rows, section = set(), ""
    for line in (REPOSITORY / "docs" / "config.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            section = line.strip("# ")
        elif match := re.match(r"\| `(\w+)` \|", line):
            rows.add(f"{section}.{match[1]}")
    assert rows == {*config_keys(), *(f"phases.{key}" for key in Phase.model_fields)} - {"phases"}


def test_every_key_of_a_study_is_on_its_page():
    from m4oe.study import Input, Split, Study, Task

    page = (REPOSITORY / "docs" / "study.md").read_text(encoding="utf-8")
    keys = {key for model in (Study, Input, Task, Split) for key in model.model_fields} - {"folder"}
    assert len(keys) >= 25
    assert {key for key in keys if f"`{key}`" not in page} == set()


def test_no_link_between_pages_is_broken():
    links = [
        (document, link)
        for document in DOCUMENTS
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8"))
    ]
    assert len(links) >= 10
    assert [link for document, link in links if not (document.parent / link).exists()] == []


def test_the_plan_in_the_architecture_page_names_every_room():
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    plan = page.partition("## The house")[2].partition("## Seams")[0]
    rooms = {source.room for source in read_house(REPOSITORY / "src" / "m4oe").sources} - {"__init__"}
    assert {room for room in rooms if not re.search(rf"\b{room}(\.py|/)", plan)} == set()
