"""Studies as values: what they name exists, equal runs have one name, settings reach every run."""

import json
from dataclasses import replace

import msgspec
import pytest

from tightrope.errors import ConfigError, StoreError
from tightrope.optim import RECIPES, ForeignRecipe
from tightrope.problems import Quadratic
from tightrope.store import MEASUREMENT, STEP
from tightrope.studies import STUDIES, Case, OverSteps, StudyFolder, run_key, studies
from tightrope.training import RunConfig, run

BOWL = RunConfig(problem=Quadratic(), method=RECIPES["gd"](lr=0.1), num_steps=20, dtype="float64")


def test_a_key_is_that_of_the_stored_configuration_and_does_not_change():
    assert run_key(BOWL) == "822d0c5da3ad3895"
    assert run_key(msgspec.structs.replace(BOWL, method=RECIPES["gd"](lr=1))) == run_key(
        msgspec.structs.replace(BOWL, method=RECIPES["gd"](lr=1.0))
    )


def test_a_study_has_runs_at_its_own_scales_alone():
    study = replace(STUDIES["fig5"], grids=STUDIES["fig5"].grids[:1])
    with pytest.raises(ConfigError, match=r"fig5 has no runs at scale paper; it has small\."):
        study.cases("paper")


def test_another_version_of_ones_own_optimizer_is_another_run(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("import torch\n\nclass Mine(torch.optim.SGD):\n    pass\n")
    config = msgspec.structs.replace(BOWL, method=ForeignRecipe(lr=0.1, path=f"{file}:Mine"))
    before = run_key(config)
    assert before == run_key(config)
    file.write_text(file.read_text() + "\nFASTER = True\n")
    assert run_key(config) != before


def test_a_seed_that_is_set_is_the_first_of_those_a_study_varies():
    plain, seeded = (STUDIES["fig6"].cases("small", settings) for settings in ((), ("seed=5",)))
    assert [case.config.seed for case in seeded] == [case.config.seed + 5 for case in plain]
    assert [case.label for case in seeded[:3]] == [f"batch 20, lr 0.0001, seed {seed}" for seed in (5, 6, 7)]
    assert {case.config.seed for case in STUDIES["fig5"].cases("small", ("seed=5",))} == {5}
    assert [case.key for case in STUDIES["fig6"].cases("small", ("dtype=float64",))][:1] != [plain[0].key]


def test_a_setting_that_is_new_leaves_old_runs_their_keys_and_their_state(tmp_path):
    case, folder = Case("bowl", BOWL), StudyFolder(tmp_path)
    run(BOWL, out=folder.run_path(case.key))
    path = folder.run_path(case.key) / "config.toml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(("num_eigenvalues", "audit_every"))))
    assert len(path.read_text().splitlines()) == len(lines) - 2
    assert folder.state(case).state == "done"
    path.write_text("".join(lines).replace("num_eigenvalues = 1", "num_eigenvalues = 2"))
    assert folder.state(case).state == "failed"


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"num_steps": 21}, {"dtype": "float32"}, {"method": RECIPES["gd"](lr=0.2)}]
)
def test_another_configuration_has_another_key(change):
    assert run_key(msgspec.structs.replace(BOWL, **change)) != run_key(BOWL)


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_a_study_is_whole(study):
    columns = {column.name for column in (*STEP, *MEASUREMENT)}
    assert study.checks
    assert study.panels
    assert {panel.column for panel in study.panels if isinstance(panel, OverSteps)} <= columns
    for scale in study.scales:
        cases = study.cases(scale)
        assert len({case.label for case in cases}) == len(cases)
        assert len({case.key for case in cases}) == len(cases)


def test_figures_share_the_runs_they_have_in_common():
    first, second, third = ({case.key for case in STUDIES[name].cases("small")} for name in ("fig1a", "fig1b", "fig1c"))
    assert len(first & second) == 1
    assert len(first & third) == 2


def test_settings_reach_every_run_and_change_its_key():
    cases = STUDIES["fig1b"].cases("small", ["seed=3", "num_steps=50"])
    assert {(case.config.seed, case.config.num_steps) for case in cases} == {(3, 50)}
    assert not {case.key for case in cases} & {case.key for case in STUDIES["fig1b"].cases("small")}
    assert [case.config.method.beta1 for case in cases] == [0.0, 0.5, 0.9, 0.95]


def test_settings_that_make_runs_equal_are_refused():
    with pytest.raises(ConfigError, match="must leave the runs of fig1a different"):
        STUDIES["fig1a"].cases("small", ["lr=1e-3"])


def test_all_names_every_study_and_a_misspelt_name_the_nearest():
    assert studies(["all"]) == list(STUDIES.values())
    assert [study.name for study in studies(["fig5", "fig2", "fig5"])] == ["fig5", "fig2"]
    with pytest.raises(ConfigError, match="Did you mean 'fig5'"):
        studies(["fg5"])


def test_a_folder_of_another_version_of_a_study_is_refused(tmp_path):
    study, folder = STUDIES["fig5"], StudyFolder(tmp_path)
    folder.sign(study, "small")
    folder.sign(study, "small")
    path = tmp_path / "studies" / "fig5-small.json"
    path.write_text(json.dumps({"version": study.version + 1}))
    with pytest.raises(StoreError, match=rf"must hold version {study.version} of fig5; it holds version"):
        folder.check(study, "small")
    path.write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        folder.check(study, "small")
    folder.check(STUDIES["fig13"], "small")  # which it holds nothing of


def test_a_folder_says_how_far_a_run_is(tmp_path):
    case, folder = Case("bowl", BOWL), StudyFolder(tmp_path)
    assert folder.state(case).state == "missing"
    folder.note_failure(case, "no luck")
    assert (folder.state(case).state, folder.state(case).reason) == ("failed", "no luck")
    folder.forget_failure(case)
    path = folder.run_path(case.key)
    path.parent.mkdir(parents=True)
    run(BOWL, out=path)
    assert (folder.state(case).state, folder.state(case).step) == ("done", 20)
    [outcome] = folder.outcomes([case])
    assert outcome.record.outcome == "completed"
    events = (path / "events.jsonl").read_bytes().splitlines(keepends=True)
    (path / "events.jsonl").write_bytes(b"".join(events[:8]))
    assert folder.state(case).state == "begun"
    (path / "config.toml").write_text((path / "config.toml").read_text().replace("lr = 0.1", "lr = 0.2"))
    assert folder.state(case).state == "failed"
    assert "was changed" in folder.outcomes([case])[0].reason
