"""Real studies, from the table to a run: init, check, train. What they reach is measured in benchmarks/."""

from __future__ import annotations

import json

import pytest

from m4oe.data.check import check_studies
from m4oe.data.draft import write_draft
from m4oe.study import load_study
from small_runs import trained


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mias_mammo", "odir_fundus_pairs"])
def test_a_drafted_study_of_real_data_trains(name, real_data, tmp_path):
    folder = real_data(name)
    tables = sorted(folder.glob("*.csv"))
    assert tables, f"no table in {folder}"
    study = tmp_path / "study.yaml"
    assert write_draft(tables[0], study)
    assert not check_studies([load_study(study)]).spoils_training
    run = trained([study], tmp_path / "run", "train.max_epochs=1")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"].keys() == load_study(study).tasks.keys()
