"""`tightrope study` as a user types it."""

import json

import pytest

from tightrope.cli import main
from tightrope.store import environment
from tightrope.studies import STUDIES, StudyFolder


@pytest.fixture
def study(tmp_path, monkeypatch, capsys):
    """Run a study command in an empty directory; returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["study", *(str(argument) for argument in arguments)])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "fg5"], "study: 'fg5' is not known. Did you mean 'fig5'?"),
        (["run"], "study: name at least one, or all."),
        (["run", "fig5", "--scale", "tiny"], "--scale: 'tiny' is not known."),
        (["run", "all", "--scale", "tiny"], "--scale: 'tiny' is not known."),
        (["run", "fig5", "-j", "0"], "-j: must be a whole number, at least 1; got 0."),
        (["run", "fig5", "--set", "lrr=1"], "--set lrr: not a setting."),
        (["run", "fig5", "--set", "lr=1"], "must leave the runs of fig5 different"),
        (["run", "fig1b", "--set", "device=cuda:99"], "device: must be one that torch has here; got 'cuda:99' ("),
        (["run", "fig1b", "--set", "device=gpu", "--dry"], "device: must be one that torch has here; got 'gpu' ("),
        (["run", "fig1b", "--set", "batch_size=21"], "batch_size: must be at most the 20 examples; got 21."),
        (["check", "fg5"], "Did you mean 'fig5'?"),
        (["check", "fig2", "--into", "page.md"], "--into: page.md must be a page that can be rewritten"),
        (["status", "fig5", "--scale", "tiny"], "--scale: 'tiny' is not known."),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(study, tmp_path, arguments, words):
    code, _, err = study(*arguments)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_version_is_refused_in_one_line(study, tmp_path):
    StudyFolder(tmp_path / "old").sign(STUDIES["fig5"], "small")
    signature = tmp_path / "old" / "studies" / "fig5-small.json"
    signature.write_text(json.dumps({"version": 99}))
    for command in ("run", "check", "status"):
        code, _, err = study(command, "fig5", "--out", "old")
        assert (code, err.count("\n")) == (2, 1)
        assert "it holds version 99" in err
    assert not (tmp_path / "old" / "runs").exists()


@pytest.mark.parametrize("rest", [[], ["--dry"]])
def test_a_missing_data_file_is_one_line_and_writes_nothing(study, tmp_path, monkeypatch, rest):
    monkeypatch.setenv("TIGHTROPE_DATA", str(tmp_path))
    code, _, err = study("run", "fig1b", "--set", "problem=cifar10", *rest)
    assert (code, err.count("\n")) == (2, 1)
    assert f"cifar10.npz must be in {tmp_path}" in err
    assert "tightrope fetch cifar10" in err
    assert "--scale small need no file" in err
    assert list(tmp_path.iterdir()) == []


def test_list_names_every_study_with_its_figure(study):
    code, out, _ = study("list")
    assert code == 0
    lines = [line.split()[0] for line in out.splitlines()[1:]]
    assert lines == list(STUDIES)
    assert "Figure 1(b)" in out


def test_the_studies_of_one_scale_are_listed_alone(study):
    code, out, _ = study("list", "--scale", "cpu")
    assert code == 0
    assert out.splitlines()[1].split()[-2:] == ["5", "cpu"]
    assert "small," not in out
    assert "exact" in out
    code, out, err = study("list", "--scale", "cp")
    assert (code, out) == (2, "")
    assert "Did you mean 'cpu'?" in err


def test_an_exact_study_needs_no_run_and_passes(study, tmp_path):
    code, out, _ = study("run", "fig14")
    assert (code, "Nothing to train" in out) == (0, True)
    code, out, _ = study("check", "fig14")
    assert code == 0
    assert "fig14: PASS (exact)" in out
    assert list(tmp_path.iterdir()) == []


def test_check_exits_with_five_while_runs_are_missing(study, tmp_path):
    code, out, _ = study("check", "fig1b", "--json")
    assert code == 5
    [found] = json.loads(out)
    assert (found["result"], found["num_runs"], found["num_done"]) == ("UNDECIDED", 4, 0)
    assert {finding["why"] for finding in found["findings"]} == {"not run yet"}
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(study, tmp_path):
    code, out, _ = study("run", "fig1b", "--dry", "-j", "2")
    assert code == 0
    assert "4 runs, 0 of them done already" in out
    assert "to do: 4 runs, about" in out
    assert list(tmp_path.iterdir()) == []


def test_from_runs_to_a_missed_check_and_a_page(study, tmp_path):
    # Three hundred steps are too few for two of the four: the check has to say so.
    short = ("--set", "num_steps=300", "--set", "problem.width=10", "--out", "here")
    code, out, err = study("run", "fig1b", "-j", "1", *short)
    assert (code, err) == (0, "")
    assert "[4/4 runs] beta1 0.95: completed." in out
    assert "4 runs: 0 there already, 4 made" in out
    code, out, _ = study("run", "fig1b", *short)
    assert "4 runs: 4 there already, 0 made" in out
    assert "runs] beta1" not in out
    code, out, _ = study("status", "fig1b", *short)
    assert code == 0
    assert "4 runs: 4 done" in out
    (tmp_path / "page.md").write_text(page_of("fig1b", "stale"))
    code, out, _ = study("check", "fig1b", *short, "--into", "page.md")
    assert code == 3
    assert "fig1b: MISS (4 of 4 runs" in out
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("Before\n")
    assert page.endswith("\nafter\n")
    assert "stale" not in page
    assert "| fig1b | Figure 1(b) | small | MISS | 4 of 4 |" in page
    assert f"torch {environment()['versions']['torch']}" in page
    rows = json.loads(study("status", "fig1b", *short, "--json")[1])
    assert [row["step"] for row in rows] == [300] * 4


def page_of(*rows):
    table = "\n".join(["| study | figure |", "|---|---|", *(f"| {name} | x |" for name in rows), "| together | |"])
    return f"Before\n<!-- measured small: begin -->\n{table if rows else ''}\n<!-- measured small: end -->\nafter\n"


@pytest.mark.parametrize(
    ("names", "rows", "lost"),
    [
        (["fig14"], ["fig1b", "fig14", "p1", "fig1b"], "those of fig1b, p1 would be lost"),
        (["fig1b", "fig14"], ["fig1b", "fig14", "fig2"], "those of fig2 would be lost"),
    ],
)
def test_a_page_that_would_lose_rows_of_other_studies_is_left_alone(study, tmp_path, names, rows, lost):
    page = tmp_path / "page.md"
    page.write_text(page_of(*rows))
    code, out, err = study("check", *names, "--into", "page.md")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert lost in err
    assert "Name these studies too, or all." in err
    assert page.read_text() == page_of(*rows)


@pytest.mark.parametrize(
    ("names", "rows"), [(["fig14"], []), (["fig14"], ["fig14"]), (["fig14", "fig2"], ["fig14"]), (["fig2"], ["gone"])]
)
def test_a_page_that_holds_nothing_else_takes_what_was_found(study, tmp_path, names, rows):
    (tmp_path / "page.md").write_text(page_of(*rows))
    assert study("check", *names, "--into", "page.md")[0] == 0
    page = (tmp_path / "page.md").read_text()
    assert all(f"| {name} | Figure {name[3:]} | any | PASS | exact |" in page for name in names)


@pytest.mark.parametrize("names", [["all"], ["fig1b", "fig14"], ["fig1b"]])
@pytest.mark.parametrize("rows", [[], ["fig1b", "fig14"]])
def test_without_any_run_a_page_is_left_alone_and_the_command_that_makes_them_is_told(study, tmp_path, names, rows):
    rows = [name for name in rows if name in names or names == ["all"]]
    (tmp_path / "page.md").write_text(page_of(*rows))
    code, out, err = study("check", *names, "--set", "seed=3", "--out", "none here", "--into", "page.md")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "none here must hold a run that ended" in err
    made_by = f"tightrope study run {' '.join(names)} --scale small --set seed=3 --out 'none here'"
    assert err.endswith(f"Make them: {made_by}\n")
    assert (tmp_path / "page.md").read_text() == page_of(*rows)


def test_a_page_without_the_marks_is_left_alone(study, tmp_path):
    (tmp_path / "page.md").write_text("nothing here\n")
    code, _, err = study("check", "fig14", "--into", "page.md")
    assert code == 2
    assert "must hold the lines" in err
    assert (tmp_path / "page.md").read_text() == "nothing here\n"


def test_a_page_that_is_no_text_is_refused_in_one_line(study, tmp_path):
    (tmp_path / "page.md").write_bytes(b"\xff\xfe\x00")
    code, _, err = study("check", "fig14", "--into", "page.md")
    assert (code, err.count("\n")) == (2, 1)
    assert "it is no text in UTF-8" in err
