"""Whatever is typed, written in a configuration or left of a run directory: one line at most, and nothing is lost."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz_cases import (
    CONFIG,
    Case,
    command_lines,
    damaged_checkpoints,
    damaged_runs,
    mutated_configs,
    readers,
    resumptions,
    some_settings,
)
from tightrope.cli import main
from tightrope.training import PRESETS, from_mapping, run

EXIT_CODES = {0, 2, 3, 4, 5, 130}
DOCTYPE = b"<!doctype html>"
TOO_LARGE = b'num_steps = 1\nmethod = {name = "gd", lr = 1}\nproblem = {name = "chebyshev", num_points = %d}\n'
PRECIOUS = {
    "thesis.txt": b"years of work\n",
    "thesis.toml": b"chapters = 7\n",
    "photos/cat.jpg": bytes(range(256)),
    "reports/old.html": DOCTYPE + b"<title>an earlier report</title>\n",
    "good.toml": tomli_w.dumps(CONFIG).encode(),
}


def call(arguments: list[str]) -> tuple[object, str]:
    """Exit code and standard error of a command; both streams encode as a terminal's do, presets are short."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="")
    short = mock.patch.dict(PRESETS, dict.fromkeys(PRESETS, CONFIG))
    with short, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(arguments)
    err.flush()
    return end.value.code, err.buffer.getvalue().decode()


@contextlib.contextmanager
def folder_with(files: dict[str, bytes]):
    """A working folder that holds these files, in an otherwise empty one."""
    with tempfile.TemporaryDirectory() as outer:
        inner = Path(outer) / "work"
        inner.mkdir()
        with contextlib.chdir(inner):
            for name, content in files.items():
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_bytes(content)
            yield


def snapshot() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("..").rglob("*") if path.is_file()}


def lost(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Files that are gone or differ; a report may be replaced by another, a resumed run goes on."""
    return [
        name
        for name, content in before.items()
        if after.get(name) != content
        and not (content.startswith(DOCTYPE) and after.get(name, b"").startswith(DOCTYPE))
        and not goes_on(name, content, after)
    ]


def goes_on(name: str, content: bytes, after: dict[str, bytes]) -> bool:
    """Whether a file of a resumed run is its successor: every byte of its events is there, or set aside."""
    if name.endswith("/checkpoint/state.safetensors"):
        return name in after
    if not name.endswith("/events.jsonl"):
        return False
    aside = after.get(name.replace("events.jsonl", "events.discarded.jsonl"), b"")
    starts = [0, *(at + 1 for at, byte in enumerate(content) if byte == ord("\n"))]
    return any(after[name].startswith(content[:at]) and content[at:] in aside for at in starts)


@pytest.fixture(scope="module")
def stored_run():
    """The files of a small run that was made once."""
    with folder_with({"good.toml": PRECIOUS["good.toml"]}):
        assert call(["run", "good.toml", "--set", "seed=3", "--out", "runs/old"]) == (0, "")  # no case has its settings
        return {name: Path(name).read_bytes() for name in ("runs/old/config.toml", "runs/old/events.jsonl")}


@pytest.fixture(scope="module")
def killed_run():
    """The files of a run that was killed after its third step, its checkpoint being that of the first."""

    class Killed(BaseException):
        pass

    def observe(progress):
        here = {str(path): path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
        files.update(here if progress.step == 1 else {EVENTS: here[EVENTS]})
        if progress.step == 3:
            raise Killed

    files: dict[str, bytes] = {}
    EVENTS = "runs/killed/events.jsonl"
    config = from_mapping({**CONFIG, "checkpoint_seconds": 0})
    with folder_with({}), pytest.raises(Killed):
        run(config, out="runs/killed", observe=observe)
    return files


def test_a_killed_run_that_is_whole_is_resumed(stored_run, killed_run):
    check(Case(["resume", "runs/killed"], killed_run), stored_run, expected=0)


def check(case: Case, stored_run: dict[str, bytes], expected: int | None = None) -> None:
    with folder_with(PRECIOUS | stored_run | case.files):
        before = snapshot()
        code, err = call(case.arguments)
        after = snapshot()
    assert code in EXIT_CODES if expected is None else code == expected
    assert "Traceback" not in err
    assert err.count("\n") == (code == 2), err
    assert err.startswith("tightrope: ") == (code == 2), err
    assert not lost(before, after)
    if code == 2 and "--report" not in case.arguments:
        assert after.keys() == before.keys()


def cases(kind: str, stored_run: dict[str, bytes], killed_run: dict[str, bytes]) -> st.SearchStrategy:
    return {
        "configurations": st.builds(
            lambda config, arguments: Case(["run", "odd.toml", *arguments], {"odd.toml": config}),
            mutated_configs(),
            st.sampled_from([[], ["--out", "new"], ["--report"]]),
        ),
        "settings": some_settings.map(
            lambda chosen: Case(["run", "good.toml", *(word for setting in chosen for word in ("--set", setting))])
        ),
        "command lines": st.builds(Case, command_lines),
        "damaged runs": st.builds(Case, readers, damaged_runs(*stored_run.values())),
        "killed runs": st.builds(Case, resumptions, damaged_checkpoints(killed_run)),
    }[kind]


KINDS = ("configurations", "settings", "command lines", "damaged runs", "killed runs")
unhurried = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_escapes_and_nothing_is_lost(kind, stored_run, killed_run):
    settings(unhurried, max_examples=40, derandomize=True)(
        given(cases(kind, stored_run, killed_run))(lambda case: check(case, stored_run))
    )()


EVENTS, TOML = "runs/torn/events.jsonl", "runs/torn/config.toml"
ONCE_ESCAPED = {
    "a line break in what is quoted": Case(["run", "good.toml", "--set", "a\nb"]),
    "a path too long to look at": Case(["run", "a" * 300]),
    "a folder too long to look at": Case(["runs", "a" * 300]),
    "a number with too many digits": Case(["run", "good.toml", "--set", "seed=" + "9" * 5000]),
    "a file with such a number": Case(["run", "odd.toml"], {"odd.toml": b"seed = " + b"9" * 5000}),
    "a nesting too deep": Case(["run", "odd.toml"], {"odd.toml": b"seed = " + b"[" * 5000}),
    "a learning rate beyond float32": Case(["run", "good.toml", "--set", "lr=1e39"]),
    "a learning rate too near zero": Case(["threshold", "adam", "--lr", "5e-324"]),
    "a curvature beyond float32": Case(["run", "good.toml", "--set", "problem.curvatures=[1e39, 1]"]),
    "a size beyond memory": Case(["run", "odd.toml"], {"odd.toml": TOO_LARGE % 2**45}),
    "a size beyond integers": Case(["run", "odd.toml"], {"odd.toml": TOO_LARGE % 2**63}),
    "events that are no text": Case(["report", "runs/torn"], {TOML: b"", EVENTS: b"\xff\n"}),
    "settings that are no text": Case(["report", "runs/torn"], {TOML: b"\xff", EVENTS: b""}),
    "settings nested too deep": Case(["report", "runs/torn"], {TOML: b"a = " + b"[" * 5000, EVENTS: b""}),
    "an event of no type": Case(["report", "runs/torn"], {TOML: b"", EVENTS: b'{"type": {}}\n'}),
    "an event nested too deep": Case(["report", "runs/torn"], {TOML: b"", EVENTS: b"[" * 100_000 + b"\n"}),
    "an event with too many digits": Case(["report", "runs/torn"], {TOML: b"", EVENTS: b"9" * 5000 + b"\n"}),
}


@pytest.mark.parametrize("name", ONCE_ESCAPED)
def test_what_once_escaped_is_answered_in_one_line(name, stored_run):
    check(ONCE_ESCAPED[name], stored_run, expected=2)


@pytest.mark.parametrize("place", ["runs/old", "photos", "reports", "thesis.txt", "."])
def test_a_run_is_not_put_where_something_is(place, stored_run):
    check(Case(["run", "good.toml", "--out", place]), stored_run, expected=2)


@pytest.mark.parametrize(
    "place", ["runs/old/events.jsonl", "runs/old/config.toml", "photos/cat.jpg", "good.toml", "runs"]
)
def test_a_report_is_not_written_over_another_file(place, stored_run):
    check(Case(["report", "runs/old", "-o", place]), stored_run, expected=2)


def test_a_last_line_torn_in_the_middle_of_a_character_is_left_out(stored_run):
    config, events = stored_run.values()
    check(Case(["report", "runs/torn"], {TOML: config, EVENTS: events + b'{"type": "\xc3'}), stored_run, expected=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_escapes_and_nothing_is_lost_in_a_thousand_cases(kind, stored_run, killed_run):
    settings(unhurried, max_examples=250, print_blob=True)(
        given(cases(kind, stored_run, killed_run))(lambda case: check(case, stored_run))
    )()
