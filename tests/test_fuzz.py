"""Whatever is typed, written in a configuration or left of a run directory: one line at most, and nothing is lost."""

from __future__ import annotations

import contextlib
import copy
import datetime
import io
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tightrope.cli import main
from tightrope.optim import RECIPES

EXIT_CODES = {0, 2, 3, 4, 5, 130}
REPORT = b"<!doctype html>\n<title>an earlier report</title>\n"
COMMANDS = ("run", "report", "runs", "threshold")


@dataclass(frozen=True)
class Case:
    """A command in a folder with files."""

    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


# What a call may do


def check(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, content in {**PRECIOUS, **stored_run(), **case.files}.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content)
        before = snapshot()
        code, err = call(case.arguments)
        after = snapshot()
    assert code in EXIT_CODES, code
    assert "Traceback" not in err
    assert err.count("\n") <= 1, err
    assert (code == 2) == err.startswith("tightrope: "), err
    assert not changed(before, after)
    assert code != 2 or "--report" in case.arguments or before.keys() == after.keys(), after.keys() - before.keys()


def call(arguments: list[str]) -> tuple[object, str]:
    """Exit code and standard error of a command; both streams encode as a terminal's do."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    err.flush()
    return code, err.buffer.getvalue().decode()


def snapshot() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Files that are gone or differ, but for reports: a newer one may replace them."""
    return [
        name
        for name, content in before.items()
        if after.get(name) != content
        and not (content.startswith(b"<!doctype html>") and after.get(name, b"").startswith(b"<!doctype html>"))
    ]


# What is there before

CONFIG = {
    "problem": {"name": "quadratic", "curvatures": [1.0, 3.0], "start": [1.0, 1.0]},
    "method": {"name": "adam", "lr": 0.01},
    "num_steps": 4,
    "measure": {"every": 2},
}
PRECIOUS = {
    "thesis.txt": b"years of work\n",
    "thesis.toml": b"chapters = 7\n",
    "photos/cat.jpg": bytes(range(256)),
    "reports/old.html": REPORT,
    "good.toml": tomli_w.dumps(CONFIG).encode(),
}
STORED: dict[str, bytes] = {}


def stored_run() -> dict[str, bytes]:
    """The files of a small run that was made once."""
    if not STORED:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path("good.toml").write_bytes(PRECIOUS["good.toml"])
            assert call(["run", "good.toml", "--out", "runs/old"]) == (0, "")
            STORED.update(snapshot())
        del STORED["good.toml"]
    return STORED


# What is thrown at it. Steps and sizes are small or impossible, so that every case ends soon and fits in memory.

words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
wild_numbers = st.sampled_from(
    [0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 1e308, 5e-324, -0.0, 0.5, float("nan"), float("inf"), -float("inf")]
)
scalars = st.one_of(wild_numbers, words, st.booleans(), st.floats(), st.just(datetime.date(2024, 2, 29)))
keys = st.one_of(st.sampled_from(["lr", "name", "beta1", "eps", "every", "x", "", "ünï"]), words)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
long_lists = st.builds(lambda value, n: [value] * n, scalars, st.sampled_from([100, 2000]))
impossible = st.sampled_from(
    [0, -1, 10**18, 2**63, 10**400, 1.5, float("nan"), float("inf"), "3", True, [], {}, [0], [[]]]
)
BOUNDED = {"num_steps", "num_points", "degree", "width", "num_examples", "hidden", "curvatures", "start", "period"}
too_many = impossible.filter(lambda value: value not in (10**18, 2**63, 10**400, True))


def replacement(key: str) -> st.SearchStrategy:
    """A value to put at a key; where a large one would be carried out, only those nobody can carry out."""
    if key == "num_steps":
        return too_many
    return impossible if key in BOUNDED else st.one_of(values, long_lists)


problems = st.one_of(
    st.just({"name": "quadratic"}),
    st.just(CONFIG["problem"]),
    st.builds(
        lambda n, degree, width: {"name": "chebyshev", "num_points": n, "degree": degree, "width": width},
        st.integers(1, 5),
        st.integers(0, 5),
        st.integers(1, 4),
    ),
    st.just({"name": "digits", "hidden": [3], "num_examples": 4}),
)
methods = st.builds(
    lambda name, lr: {"name": name, "lr": lr},
    st.sampled_from(sorted(RECIPES)),
    st.sampled_from([1e-3, 0.1, 1.0, 50.0, 1e300]),
)
schedules = st.sampled_from(
    [
        {"name": "constant"},
        {"name": "cosine", "num_steps": 5},
        {"name": "step_decay", "every": 2, "gamma": 0.5},
        {"name": "warm_restarts", "period": 2},
        {"name": "one_cycle", "num_steps": 4},
    ]
)
valid_configs = st.fixed_dictionaries(
    {"problem": problems, "method": methods, "num_steps": st.integers(1, 4)},
    optional={
        "schedule": schedules,
        "batch_size": st.integers(1, 3),
        "seed": st.sampled_from([0, 7, 2**62]),
        "dtype": st.sampled_from(["float32", "float64"]),
        "measure": st.fixed_dictionaries(
            {"every": st.integers(0, 2)}, optional={"sharpness": st.booleans(), "rtol": st.sampled_from([1e-9, 1.0])}
        ),
        "stop": st.sampled_from([{}, {"loss": 0.1}, {"divergence": 2.0}]),
    },
)


@st.composite
def mutated_configs(draw) -> bytes:
    """A valid configuration with settings replaced, dropped, misspelt or added, then its text damaged."""
    config = copy.deepcopy(draw(valid_configs))
    for _ in range(draw(st.integers(0, 3))):
        tables = [config, *(value for value in config.values() if isinstance(value, dict))]
        table = draw(st.sampled_from(tables))
        known = sorted(table)
        key = draw(st.sampled_from(known)) if known and draw(st.booleans()) else draw(keys)
        deed = draw(st.sampled_from(["replace", "replace", "drop", "misspell"]))
        if deed == "replace":
            table[key] = draw(replacement(key))
        elif key in table and key != "num_steps":
            value = table.pop(key)
            if deed == "misspell":
                table[key[:-1]] = value
    text = tomli_w.dumps(config).encode()
    cut = draw(st.integers(0, len(text)))
    return draw(
        st.sampled_from(
            [
                *[text] * 6,
                b"",
                b"\xef\xbb\xbf" + text,
                text + b"seed = 1\nseed = 2\n",
                text + b"[method]\n",
                text[:cut] + b"\xff\xfe\0" + text[cut:],
                text[:cut] + b'"' + text[cut:],
                text[:cut] + "\u2028{é]".encode() + text[cut:],
                text.replace(b"\n", b"\r\n"),
                text.replace(b"\n", b"\r"),
                text + b"deep = " + b"[" * 5000 + b"]" * 5000,
                text + b"digits = " + b"9" * 5000,
                bytes(range(256)),
            ]
        )
    )


SETTINGS = ["lr", "method.lr", "beta1", "eps", "every", "seed", "dtype", "batch_size", "method", "schedule", "problem"]
SETTINGS += ["measure.rtol", "stop.loss", "stop.divergence", "measure.num_examples", "max_products", "weight_decay"]
texts = st.one_of(
    words,
    scalars.map(str),
    st.sampled_from(["adam", "gd", "cosine", "[1, 2", "{a=1}", '"', "1e999", "9" * 5000, "[" * 5000, "--", "=", "0x1"]),
    values.map(lambda value: json.dumps(value, default=str)),
)
free_settings = st.one_of(
    st.builds(lambda key, text: f"{key}={text}", st.one_of(st.sampled_from(SETTINGS), words), texts),
    words,
).filter(lambda setting: "num_steps" not in setting)
step_settings = st.builds(
    "num_steps={}".format, st.sampled_from(["0", "-1", "2", "1e1", "nan", "x", "", "[1]", "true", "1.5", "9" * 5000])
)
some_settings = st.lists(st.one_of(free_settings, step_settings), min_size=1, max_size=4)

paths = st.one_of(
    st.sampled_from(
        ["thesis.txt", "thesis.toml", "good.toml", "photos", "photos/cat.jpg", "reports/old.html", "runs", "runs/old"]
        + [
            "runs/old/events.jsonl",
            "runs/old/config.toml",
            "",
            ".",
            "..",
            "./new",
            "thesis.txt/below",
            "a" * 300,
            "new",
        ]
        + [
            "/".join(["deep"] * 2000),
            "über/neu",
            "new.html",
            "/proc/self/mem",
            "/dev/null",
            "\udcff.toml",
            "-",
            "~",
            "*",
        ]
    ),
    words.filter(lambda word: not word.startswith("/")),
)
names = st.sampled_from([*sorted(RECIPES), "good.toml", "bowls", "demmo", "no.toml"])
options = st.one_of(
    st.builds(lambda name, path: [name, path], st.sampled_from(["--out", "-o"]), paths),
    st.builds(lambda path: [f"--out={path}"], paths),
    st.builds(lambda setting: ["--set", setting], free_settings),
    st.builds(
        lambda name, text: [name, text],
        st.sampled_from(
            ["--lr", "--beta1", "--beta2", "--eps", "--weight-decay", "--name", "--lrr", "--bias-correction"]
        ),
        texts,
    ),
    st.sampled_from(
        [["--report"], ["--json"], ["--help"], ["--version"], ["--"], ["--set"], ["-o"], ["--out"], ["-h"]]
    ),
    words.map(lambda word: [f"--{word}"]),
)
command_lines = st.builds(
    lambda command, places, chosen: [*command, *places, *(word for option in chosen for word in option)],
    st.one_of(st.sampled_from(COMMANDS).map(lambda name: [name]), words.map(lambda word: [word]), st.just([])),
    st.lists(st.one_of(paths, names), max_size=3),
    st.lists(options, max_size=3),
)


@st.composite
def damaged_runs(draw) -> dict[str, bytes]:
    """Files of a run directory with settings changed, lines damaged, bytes cut off, or a file missing."""
    config, events = stored_run()["runs/old/config.toml"], stored_run()["runs/old/events.jsonl"]
    lines = [json.loads(line) for line in events.splitlines()]
    for _ in range(draw(st.integers(0, 3))):
        event = draw(st.sampled_from(lines))
        if draw(st.booleans()) and event:
            event[draw(st.sampled_from(sorted(event)))] = draw(json_values)
        else:
            event.pop(draw(st.sampled_from(sorted(event))), None) if event else None
    texts = [json.dumps(line).encode() for line in lines]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(texts) - 1))
        texts[at] = draw(st.one_of(st.sampled_from(JUNK), st.just(texts[at][: len(texts[at]) // 2])))
    content = b"\n".join(texts) + draw(st.sampled_from([b"\n", b"", b'\n{"type": "st', b"\n\n\n", b"\n\xff\xfe"]))
    content = draw(st.sampled_from([*[content] * 6, b"", b"\0" * 100, content[: len(content) // 3], events + events]))
    config = draw(st.one_of(st.just(config), st.just(config), mutated_configs()))
    files = {"runs/torn/events.jsonl": content, "runs/torn/config.toml": config}
    missing = draw(st.sampled_from([None, None, None, "runs/torn/events.jsonl", "runs/torn/config.toml"]))
    return {name: content for name, content in files.items() if name != missing}


JUNK = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"type": []}',
    b'{"type": "step"}',
    b'{"type": {}, "a": 1}',
    b"\xff",
    b"NaN",
    b"{",
]
JUNK += [
    b'{"type": "step", "step": ' + b"9" * 5000 + b"}",
    b"[" * 100_000,
    b'{"type": "measurement", "x": 1e999}',
    b" ",
]
JUNK += [b'{"type": "end", "outcome": "lost"}', b'{"type": "verdict"}', b'{"type": "start", "versions": 3}']
json_values = st.recursive(
    st.one_of(st.none(), wild_numbers, st.booleans(), words, st.sampled_from(["nan", "inf", "1e5", "9" * 5000])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=5,
)
readers = st.one_of(
    st.builds(lambda more, out: ["report", "runs/torn", *more, "-o", out], st.sampled_from([[], ["runs/old"]]), paths),
    st.sampled_from(
        [["report", "runs/torn"], ["runs"], ["runs", "--json"], ["runs", "runs/torn"], ["run", "runs/torn"]]
    ),
)

KINDS = {
    "configurations": st.builds(
        lambda config, arguments: Case(["run", "odd.toml", *arguments], {"odd.toml": config}),
        mutated_configs(),
        st.sampled_from([[], ["--out", "new"], ["--report"]]),
    ),
    "settings": st.builds(
        lambda chosen: Case(["run", "good.toml", *(word for text in chosen for word in ("--set", text))]), some_settings
    ),
    "command lines": st.builds(Case, command_lines),
    "damaged runs": st.builds(Case, readers, damaged_runs()),
}


def fuzz(kind: str, max_examples: int, **options: bool) -> None:
    @settings(
        max_examples=max_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), **options
    )
    @given(KINDS[kind])
    def no_case_escapes(case: Case) -> None:
        check(case)

    no_case_escapes()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_escapes_and_nothing_is_lost(kind):
    fuzz(kind, 40, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_escapes_and_nothing_is_lost_in_a_thousand_cases(kind):
    fuzz(kind, 250, print_blob=True)
