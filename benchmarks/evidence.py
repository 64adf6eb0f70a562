"""Writes docs/evidence.md from what comparisons and the truth test left behind; nothing in it is typed.

    python benchmarks/evidence.py "Breast phantom=OUT1" "Mini-MIAS=OUT2" --truth OUT3 OUT4 --doc docs/evidence.md

OUT1, OUT2: folders of `m4oe compare`. OUT3, OUT4: folders of benchmarks/truth.py. Each gives a section; of a page that
is there, only the sections given are written anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from m4oe.compare.reading import mark
from truth import CHANGES, CONDITIONS, by_condition, changed, interval, limits, show

FORMS = {condition.name for condition in CONDITIONS if condition.family == "cmi"}

MARGIN = 0.05  # what a form of the information term may cost

GROUPS = {
    "ours": "Ours",
    "single": "A model for each task",
    "baseline": "Other fusions of the same tokens",
    "backbone": "Encoders of others, with and without MToE",
    "ablation": "M4oE changed",
    "segmentation": "Segmentation",
}
HEADING = """# Evidence

Is M4oE better than what it is compared with, and are its explanations true? This page is written by
`benchmarks/evidence.py` from the files of `m4oe compare` and `benchmarks/truth.py`; no number in it is typed. The
commands are at the end.

In tables of scores: mean over seeds on the test split, with a 95 % interval by Student's t over patients (bootstrap)
and trainings (their variance; docs/compare.md); **bold** is significantly better than every other on that task,
*italic* is tied for best. A difference is that to M4oE, on the same patients, with its interval; p is adjusted by Holm
over all comparisons of the table. All variants have the config's own learning rate, which was found on M4oE: with other
cohorts of phantoms, and for Mini-MIAS on other splits of the same patients (docs/performance.md). Seconds are of one or
two trainings at a time on a machine of two cores that did other work as well, and are not to be compared between
tables.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="*", help="TITLE=FOLDER")
    parser.add_argument("--truth", type=Path, nargs="+", default=[])
    parser.add_argument("--doc", type=Path, required=True)
    given = parser.parse_args()
    sections = sections_of(given.doc)
    for title, _, folder in (words.partition("=") for words in given.comparisons):
        content = json.loads((Path(folder) / "comparison.json").read_text(encoding="utf-8"))
        sections[title] = "\n".join(compared(content))
    results = [result for folder in given.truth for result in json.loads((folder / "truth.json").read_text())]
    for title, tell, some in (
        ("Are the explanations true?", told, [result for result in results if result["condition"] not in FORMS]),
        ("What the information term does", formed, [result for result in results if result["condition"] in FORMS]),
    ):
        if some:
            sections[title] = "\n".join(tell(some))
    parts = [HEADING, *(f"## {title}\n\n{text.strip()}\n" for title, text in sections.items()), COMMANDS]
    given.doc.write_text("\n".join(parts), encoding="utf-8")


def sections_of(doc: Path) -> dict[str, str]:
    """{title: text} of a page written before, but for its commands."""
    if not doc.is_file():
        return {}
    _, *sections = doc.read_text(encoding="utf-8").split("\n## ")
    return dict(section.split("\n", 1) for section in sections if not section.startswith("Commands"))


def compared(content: Mapping[str, Any]) -> Iterator[str]:
    """A comparison: how to read it, scores and cost, differences."""
    seeds = sorted({seed for row in content["variants"].values() for seed in row["seeds"]})
    exams = ", ".join(f"{task} {about.get('exams', 0)}" for task, about in content["tasks"].items())
    yield f"Training seeds {', '.join(map(str, seeds))}. Labelled test exams: {exams}.\n"
    yield from (f"- {sentence}" for sentence in [*content["reading"], *_standings(content)])
    tasks = list(content["tasks"])
    heads = [f"{task} ({content['tasks'][task]['metric']})" for task in tasks]
    costs = ["parameters", "MFLOP an exam", "s an epoch", "peak MB"]
    yield f"\n### Scores\n\n| | {' | '.join([*heads, *costs])} |\n|{'---|' * (1 + len(heads) + len(costs))}"
    yield from _by_group(
        content, lambda name: [*(_score(content, name, task) for task in tasks), *_costs(content, name)]
    )
    yield f"\n### Differences to {content['variants'][content['reference']]['title']}\n"
    yield f"| | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}"
    yield from _by_group(
        content, lambda name: [_difference(content, name, task) for task in tasks], skip=content["reference"]
    )
    yield from _paired(content)
    yield from _trainings(content, heads)
    yield from _encoders(content)
    yield ""


def _standings(content: Mapping[str, Any]) -> Iterator[str]:
    """Of each task the place of the reference, and from how many others its intervals part it, unadjusted."""
    reference = content["variants"][content["reference"]]
    for task, about in content["tasks"].items():
        scores = {name: row["scores"].get(task, {}).get(about["metric"]) for name, row in content["variants"].items()}
        known = sorted((one["value"] for one in scores.values() if one), reverse=True)
        gaps = [row["differences"][task] for row in content["variants"].values() if task in row["differences"]]
        sure = [gap for gap in gaps if gap["low"] is not None]
        below, above = sum(gap["high"] < 0 for gap in sure), sum(gap["low"] > 0 for gap in sure)
        if scores[content["reference"]]:
            place = 1 + known.index(scores[content["reference"]]["value"])
            yield (f"{task}: {reference['title']} is number {place} of {len(known)}; by intervals without adjustment, "
                   f"{below} below it and {above} above.")  # fmt: skip

    for title, below, above in _to_single(content):
        yield (f"By intervals without adjustment {reference['title']} is below {title} on {_names(below)}, "
               f"above it on {_names(above)}.")  # fmt: skip


def _to_single(content: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[str]]]:
    """(a model for each task, where the reference is below it, where above): nowhere below is what was asked for."""
    for row in content["variants"].values():
        if row["group"] == "single":
            sure = {task: one for task, one in row["differences"].items() if one["low"] is not None}
            below = [task for task, one in sure.items() if one["low"] > 0]
            yield row["title"], below, [task for task, one in sure.items() if one["high"] < 0]


def _paired(content: Mapping[str, Any]) -> Iterator[str]:
    """Two variants that differ in one thing: what it brings."""
    if not content["pairs"]:
        return
    tasks, variants = list(content["tasks"]), content["variants"]
    yield "\n### Pairs\n\nThe first less the second, p by Holm over this table.\n"
    yield f"| | {' | '.join(tasks)} |\n|{'---|' * (1 + len(tasks))}"
    for name, found in content["pairs"].items():
        cells = " | ".join(_gap(content, found.get(task)) for task in tasks)
        yield f"| {variants[name]['title']}, {variants[variants[name]['pair']]['title']} | {cells} |"


def _trainings(content: Mapping[str, Any], heads: list[str]) -> Iterator[str]:
    """Each seed's own score: a mean may stand for trainings that learned a task and others that did not."""
    yield f"\n### Each training\n\n| | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}"
    yield from _by_group(content, lambda name: [_values(content, name, task) for task in content["tasks"]])


def _values(content: Mapping[str, Any], name: str, task: str) -> str:
    one = content["variants"][name]["scores"].get(task, {}).get(content["tasks"][task]["metric"])
    return "-" if one is None else " ".join(f"{value:.3f}".removeprefix("0") for value in one["seeds"])


def _encoders(content: Mapping[str, Any]) -> Iterator[str]:
    """Probes of encoders trained together, less those trained alone."""
    found = content.get("competition") or {}
    if not found:
        return
    tasks = list(dict.fromkeys(task for probes in found.values() for task in probes))
    yield "\n### Do inputs compete for training?\n"
    yield "AUROC of a linear probe on the encoder of an input: trained with all, trained for the task from it alone,"
    yield "and the difference (95 % interval over patients, not adjusted for their number). Of the first training seed"
    yield "and fold.\n"
    yield f"| | {' | '.join(tasks)} |\n|{'---|' * (1 + len(tasks))}"
    for name, probes in found.items():
        yield f"| {name} | {' | '.join(_probes(probes.get(task)) for task in tasks)} |"


def _probes(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "-"
    gap = one["difference"]
    span = "" if gap["low"] is None else f" ({gap['low']:+.3f} to {gap['high']:+.3f})"
    return f"{one['joint']['value']:.3f}, {one['alone']['value']:.3f}: {gap['value']:+.3f}{span}"


def _by_group(content: Mapping[str, Any], cells: Any, skip: str = "") -> Iterator[str]:
    last = ""
    for name, row in content["variants"].items():
        if name == skip:
            continue
        shown = cells(name)
        if row["group"] != last:
            last = row["group"]
            yield f"| **{GROUPS[last]}** |{' |' * len(shown)}"
        yield f"| {row['title']} | {' | '.join(shown)} |"


def _score(content: Mapping[str, Any], name: str, task: str) -> str:
    one = content["variants"][name]["scores"].get(task, {}).get(content["tasks"][task]["metric"])
    if one is None:
        return "failed" if content["variants"][name]["failed"] else "-"
    stars = {"best": "**", "tied": "*", "": ""}[mark(content, name, task)]
    span = "" if one["low"] is None else f" ({one['low']:.3f} to {one['high']:.3f})"
    return f"{stars}{one['value']:.3f}{stars}{span}"


def _costs(content: Mapping[str, Any], name: str) -> list[str]:
    cost = content["variants"][name]["cost"]
    numbers = ((cost.get("parameters"), 1e3, "{:.0f} k"), (cost.get("flops"), 1e6, "{:.0f}"),
               (cost.get("seconds_an_epoch"), 1, "{:.1f}"), (cost.get("peak_memory"), 2**20, "{:.0f}"))  # fmt: skip
    return ["-" if value is None else form.format(value / unit) for value, unit, form in numbers]


def _difference(content: Mapping[str, Any], name: str, task: str) -> str:
    return _gap(content, content["variants"][name]["differences"].get(task))


def _gap(content: Mapping[str, Any], one: Mapping[str, Any] | None) -> str:
    if one is None or one["low"] is None:
        return "-"
    p = "" if one["p_holm"] is None else f", p {one['p_holm']:.3f}"
    sure = "**" if one["p_holm"] is not None and one["p_holm"] < content["level"] else ""
    return f"{sure}{one['value']:+.3f}{sure} ({one['low']:+.3f} to {one['high']:+.3f}{p})"


def told(results: list[dict[str, Any]]) -> Iterator[str]:
    """The truth test: what it asked for, whether it was reached, and all its tables."""
    yield "Breast phantoms with a modality of noise; every carrier is known. Means over seeds (95 % interval)."
    yield from _budgets(results)
    verdicts = _verdicts(list(by_condition(results).get("as shipped", {}).values()))
    yield from ("", *(f"- {sentence}" for sentence in verdicts), "")
    yield show(results).replace("## ", "### ")


def formed(results: list[dict[str, Any]]) -> Iterator[str]:
    """Forms and weights of the information term: what is sure of each, and all tables."""
    yield "The same phantoms, trained with the term at several weights and in several forms (docs/config.md)."
    yield "Sure is what the 95 % interval of a difference says, by seed, to a training without the term; it is not"
    yield "adjusted for their number."
    yield from _budgets(results)
    yield from ("", *(f"- {sentence}" for sentence in _forms(changed(by_condition(results)))), "")
    yield show(results).replace("## ", "### ")


def _budgets(results: list[dict[str, Any]]) -> Iterator[str]:
    """What a condition changes of the shipped config beside itself."""
    by_words: dict[str, list[str]] = {}
    for result in results:
        names = by_words.setdefault(" ".join(result["overrides"]), [])
        names += [result["condition"]] * (result["condition"] not in names)
    for words, names in by_words.items():
        yield f"Trained with {words or 'the defaults'}: {'; '.join(names)}." if any(by_words) else ""


def _forms(changes: Mapping[str, Mapping[str, list[float]]]) -> Iterator[str]:
    """Which forms of the information term surely do what it is for, and at what price."""
    score, worst, information, noise = CHANGES
    sure = {name: {figure: limits(values) for figure, values in row.items()} for name, row in changes.items()}
    above, below = ({name: {f for f, (low, high) in row.items() if (low > 0 if up else high < 0)}
                     for name, row in sure.items()} for up in (True, False))  # fmt: skip
    if not sure:
        return
    helps = [name for name in sure if {score, worst} & above[name]]
    costs = [name for name in sure if {score, worst} & below[name]]
    parts, noisy = ([name for name in sure if figure in above[name]] for figure in (information, noise))
    quiet = [name for name in sure if noise in below[name]]
    clean = [name for name in parts if sure[name][noise][1] <= MARGIN and sure[name][score][0] >= -MARGIN]
    most = max(row[score][1] for row in sure.values())
    yield f"Forms of the information term that surely raise the mean or the worst score: {_names(helps)}."
    yield f"That surely lower one of them: {_names(costs)}."
    yield f"That surely make experts specialise by modality: {_names(parts)}."
    yield f"That surely route more through noise: {_names(noisy)}. Less: {_names(quiet)}."
    yield (f"That surely specialise, at surely no more than {MARGIN} of a task more through noise and {MARGIN} less of "
           f"the mean score: {_names(clean)}.")  # fmt: skip
    yield f"By these intervals some form may still raise the mean score by up to {most:.3f}."


def _names(names: Iterable[str]) -> str:
    return "; ".join(names) or "none"


def _verdicts(shipped: list[dict[str, Any]]) -> Iterator[str]:
    if not shipped:
        return
    shapley, routing = ([each["in_exams"][name] for each in shipped] for name in ("shapley", "routing"))
    reached = "reached" if np.mean(shapley) >= 0.95 else "NOT reached"
    found = interval(shapley, 0, 1)
    yield f"Shapley finds the carrying input of an exam with AUROC {found}; .95 was asked for: {reached}."
    lead = " Below .85: the report leads with Shapley." if np.mean(routing) < 0.85 else ""
    yield f"Routing finds it with AUROC {interval(routing, 0, 1)}.{lead}"
    yield ("An input has the routing of its modality, so the other view of the same ties with the carrier: with all "
           "six inputs present, routing that is always right has .9.")  # fmt: skip
    below = [value for each in shipped for value in each["noise_below"].values()]
    whole = "reached" if all(below) else "NOT reached"
    pairs = f"{sum(below)} of {len(below)} seed-task pairs"
    yield f"Noise is below every true carrier by mean |Shapley| in {pairs}: {whole}."
    ranks = [each["synergy_rank"] for each in shipped]
    first = "reached" if all(rank == 1 for rank in ranks) else "NOT reached"
    yield f"The planted synergy pair is ranked {', '.join(map(str, ranks))} by PID for its task, by seed: {first}."


COMMANDS = """## Commands

<!-- not run: hours -->
```bash
python -c "from m4oe.data.phantoms import write_breast; write_breast('breast', seed=900, exams=1600)"
sed -i 's/0.7, 0.15, 0.15/0.35, 0.08, 0.57/' breast/study.yaml  # as many exams as usual to learn from, many to test
m4oe compare breast/study.yaml -o OUT1 -c benchmarks/comparison_breast.yaml
m4oe compare breast/study.yaml -o OUT2 -c benchmarks/comparison_breast_longer.yaml
m4oe compare breast/study.yaml -o OUT3 -c benchmarks/comparison_breast_ablations.yaml
python benchmarks/mias.py DATA -o mias  # which drafts the study
m4oe compare mias/study.yaml -o OUT4 -c benchmarks/comparison_mias.yaml
python benchmarks/truth.py -o OUT5 --jobs 2 --only shipped
python benchmarks/truth.py -o OUT6 --jobs 2 --only clarity train.max_epochs=10
python benchmarks/truth.py -o OUT7 --jobs 2 --seeds 701 702 703 704 --only cmi train.max_epochs=8
python benchmarks/evidence.py "Breast phantom=OUT1" "Breast phantom, at full length=OUT2" \\
    "Breast phantom, M4oE changed=OUT3" "Mini-MIAS=OUT4" --truth OUT5 OUT6 OUT7 --doc docs/evidence.md
```
"""


if __name__ == "__main__":
    main()
