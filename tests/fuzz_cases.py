"""Odd cases for the command line: configurations, settings, command lines and run directories gone wrong.

Steps and sizes are small or impossible, so that every case ends soon and fits in memory.
"""

from __future__ import annotations

import copy
import datetime
import json
from dataclasses import dataclass, field

import tomli_w
from hypothesis import strategies as st

from tightrope.optim import RECIPES


@dataclass(frozen=True)
class Case:
    """A command in a folder that holds these files beside the usual ones."""

    arguments: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


CONFIG = {
    "problem": {"name": "quadratic", "curvatures": [1.0, 3.0], "start": [1.0, 1.0]},
    "method": {"name": "adam", "lr": 0.01},
    "num_steps": 4,
    "measure": {"every": 2},
}

# Values

words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
HUGE = [2**31, 2**63, -(2**63), 10**400, 1e308, 1e39, float("inf"), -float("inf")]
wild_numbers = st.sampled_from([*HUGE, 0, -1, 1, 0.5, 5e-324, -0.0, 1 - 2**-53, float("nan")])
scalars = st.one_of(wild_numbers, words, st.booleans(), st.floats(), st.just(datetime.date(2024, 2, 29)))
keys = st.one_of(st.sampled_from(["lr", "name", "beta1", "eps", "every", "x", "", "ünï"]), words)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
long_lists = st.builds(lambda value, n: [value] * n, scalars, st.sampled_from([100, 2000]))
too_small = [0, -1, 1.5, float("nan"), "3", [], {}, [0], [[]]]
too_large = [2**45, 10**18, 2**63, 10**400, float("inf")]
SIZES = {"num_points", "degree", "width", "num_examples", "hidden", "period", "channels", "layers", "heads"}


def replacement(key: str) -> st.SearchStrategy:
    """A value to put at a key; where a large one would be carried out, only those nobody can carry out."""
    if key == "num_steps":
        return st.sampled_from(too_small)
    if key in SIZES:
        return st.sampled_from([*too_small, *too_large, *([n] for n in too_large)])
    return st.one_of(wild_numbers, values, long_lists)


# Configurations

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
    st.builds(
        lambda key, size: {"name": "chebyshev", key: size},
        st.sampled_from(["num_points", "degree", "width"]),
        st.sampled_from(too_large),
    ),
    st.builds(lambda size: {"name": "digits", "hidden": [3, size]}, st.sampled_from(too_large)),
    st.just({"name": "digits", "model": "wrn_bn", "channels": [2], "num_examples": 4}),
    st.just({"name": "sequences", "layers": 1, "width": 4, "heads": 2, "num_examples": 3}),
    st.builds(
        lambda key, size: {"name": "sequences", "width": 4, "heads": 2, key: size},
        st.sampled_from(["layers", "vocabulary", "length", "num_examples"]),
        st.sampled_from(too_large),
    ),
)
methods = st.builds(
    lambda name, lr: {"name": name, "lr": lr},
    st.sampled_from(sorted(RECIPES)),
    st.sampled_from([1e-3, 0.1, 1.0, 50.0, 1e300, 5e-324]),
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
def mutated_configs(draw: st.DrawFn) -> bytes:
    """A valid configuration with settings replaced, dropped, misspelt or added, then perhaps its text damaged."""
    config = copy.deepcopy(draw(valid_configs))
    for _ in range(draw(st.integers(0, 3))):
        table = draw(st.sampled_from([config, *(value for value in config.values() if isinstance(value, dict))]))
        key = draw(st.sampled_from(sorted(table))) if table and draw(st.booleans()) else draw(keys)
        deed = draw(st.sampled_from(["replace", "replace", "drop", "misspell"]))
        if deed == "replace":
            table[key] = draw(replacement(key))
        elif key in table and key not in {"num_steps", *SIZES}:
            value = table.pop(key)
            if deed == "misspell":
                table[key[:-1]] = value
    return draw(damaged(tomli_w.dumps(config).encode()))


def damaged(text: bytes) -> st.SearchStrategy:
    """The text as it is, three times in four; else with its bytes gone wrong somewhere."""
    cut = len(text) // 2
    wrong = [
        b"",
        b"\xef\xbb\xbf" + text,
        text[:cut],
        text + b"seed = 1\nseed = 2\n",
        text + b"[method]\n",
        text[:cut] + b"\xff\xfe\0" + text[cut:],
        text[:cut] + b'"' + text[cut:],
        text[:cut] + "\u2028{é]".encode() + text[cut:],
        text.replace(b"\n", b"\r"),
        text + b"deep = " + b"[" * 5000 + b"]" * 5000,
        b"digits = " + b"9" * 5000 + b"\n" + text,
        bytes(range(256)),
    ]
    return st.one_of(*[st.just(text)] * 3, st.sampled_from(wrong))


# Settings

PLAUSIBLE = {
    "lr": ["0.1", "1.", ".5", "1e-3", "0", "-1", "1e300", "5e-324", "1e999", "nan", "inf", "fast", "true"],
    "method.beta1": ["0", "0.9", "0.9999999999999999", "1", "-0.1", "nan", "[0.9]"],
    "eps": ["0", "1e-8", "1e39", "-1"],
    "weight_decay": ["0", "0.1", "1e39", "1e300", "nan"],
    "method": ["gd", "rmsprop", "padam", "custom", "adm", "3", '{name = "gd", lr = 1}', "{}"],
    "method.name": ["gd", "nesterov", "[]"],
    "method.momentum_rule.beta": ["0.5", "2"],
    "problem": ["quadratic", "chebyshev", "cifar"],
    "problem.curvatures": ["[1, 2]", "[-1, -2]", "[0, 0]", "[1e300, 1]", "[nan, 1]", "[]", "[1]", '["a", "b"]'],
    "problem.start": ["[0, 0]", "[1e39, 1]", "[1e300, 1]", "[inf, 1]", "7"],
    "schedule": ["constant", "cosine", "linear", "warm_restarts", '{name = "warm_restarts", period = 1}'],
    "schedule.name": ["inverse_square_root", "warmup"],
    "every": ["0", "1", "-1", "1e2", "9223372036854775808"],
    "measure": ["3", "{every = 1}"],
    "measure.rtol": ["0", "1e-300", "1e300", "nan"],
    "max_products": ["1", "0", "1000000000000"],
    "measure.num_examples": ["1", "7", "0"],
    "audit_every": ["0", "1"],
    "seed": ["1", "-1", "4611686018427387904", "9223372036854775807"],
    "dtype": ["float64", "float32", "float16", "32"],
    "batch_size": ["1", "2", "0", "99999999999999999999"],
    "rho": ["0.1", "0", "-1", "1e39", "nan", "[]"],
    "sam": ["3", "{}", "{rho = 0.1, every = 2}", "{micro_batches = 3}", "{rho = 1e300}"],
    "sam.sparsity": ["0.5", "1", "nan"],
    "clipping": ["global_norm", "value", "unit", "norm", "3", '{name = "value", limit = 1e-300}'],
    "max_norm": ["1", "0", "inf", "1e39"],
    "average_restarts": ["true", "1", "maybe"],
    "checkpoint_seconds": ["0", "1e300", "-1", "nan", "x"],
    "stop.loss": ["10", "nan", "-inf"],
    "stop.divergence": ["1.5", "1", "inf", "nan"],
    "num_steps": ["1", "2", "0", "-1", "1.5", "1e1", "nan", "x", "", "[1]", "true", "9" * 5000],
}
likely = st.sampled_from([f"{key}={text}" for key, texts in PLAUSIBLE.items() for text in texts])
texts = st.one_of(
    words,
    scalars.map(str),
    st.sampled_from(["adam", "[1, 2", "{a=1}", '"', "1e999", "9" * 5000, "[" * 5000, "--", "=", "0x1"]),
    values.map(lambda value: json.dumps(value, default=str)),
)
free = st.one_of(
    st.builds("{}={}".format, st.one_of(st.sampled_from(sorted(PLAUSIBLE)), words), texts).filter(
        lambda setting: "num_steps" not in setting
    ),
    words,
)
some_settings = st.one_of(
    *[st.lists(likely, min_size=1, max_size=2)] * 2, st.lists(st.one_of(likely, free), min_size=1, max_size=3)
)

# Command lines

FOLDERS = ["photos", "runs", "runs/old", "", ".", "..", "~", "-", "*", "deep/" * 2000]
FILES = ["thesis.txt", "thesis.toml", "good.toml", "photos/cat.jpg", "reports/old.html", "/proc/self/mem", "/dev/null"]
FILES += ["runs/old/events.jsonl", "runs/old/config.toml", "thesis.txt/below", "\udcff.toml"]
NEW = ["new", "./new", "new.html", "über/neu", "\udcff", "a" * 300, "a" * 250]
paths = st.one_of(
    st.sampled_from(NEW[:4]),
    st.sampled_from([*FOLDERS, *FILES, *NEW]),
    words.filter(lambda word: not word.startswith("/") and ".." not in word),
)
good = st.sampled_from(["good.toml", "bowl", "demo"])
whats = st.one_of(good, good, good, st.sampled_from(["demmo", "no.toml"]), paths)
hyperparameters = st.sampled_from(
    ["--lr", "--beta1", "--beta2", "--eps", "--weight-decay", "--name", "--lrr", "--power"]
)
numbers = st.sampled_from(
    ["0.1", "1", "0", "-1", "1e-3", "5e-324", "1e300", "nan", "inf", "0.9999999999999999", "true"]
)
outs = st.builds(lambda name, path: [name, path], st.sampled_from(["--out", "-o"]), paths)
settings = st.builds(lambda setting: ["--set", setting], st.one_of(likely, likely, free))
decays = st.builds(lambda name, text: [name, text], hyperparameters, st.one_of(numbers, numbers, texts))
flags = st.sampled_from(
    [[name] for name in ("--report", "--json", "--help", "--version", "--", "--set", "-o", "--out", "-h")]
)
odd = st.one_of(outs, settings, decays, flags, words.map(lambda word: [f"--{word}"]), words.map(lambda word: [word]))


def lines(command: str, places: st.SearchStrategy, most: int, *options: st.SearchStrategy) -> st.SearchStrategy:
    """Command lines of one command: its places, up to two of its options, and now and then what is not its own."""
    extra = st.one_of(st.just([]), st.just([]), odd)
    return st.builds(
        lambda named, chosen, more: [command, *named, *(word for option in chosen for word in option), *more],
        st.lists(places, min_size=1, max_size=most),
        st.lists(st.one_of(*options), max_size=2, unique_by=lambda option: option[0]),
        extra,
    )


command_lines = st.one_of(
    lines("run", whats, 1, outs.map(lambda out: ["--out", out[1]]), settings, st.just(["--report"])),
    lines("report", st.one_of(st.just("runs/old"), st.just("runs/old"), paths), 2, outs),
    lines("runs", st.one_of(st.just("runs"), paths), 1, st.just(["--json"])),
    lines("compare", st.one_of(st.just("runs/old"), st.just("runs"), paths), 3, st.just(["--json"])),
    lines("resume", st.one_of(st.just("runs/old"), paths), 1, st.just(["--anyway"]), st.just(["--report"])),
    lines("fetch", words.filter(lambda word: not word.startswith("cifar")), 1, st.just(["--help"])),
    lines("threshold", st.one_of(*[st.sampled_from(sorted(RECIPES))] * 3, words), 1, decays),
    st.lists(st.one_of(st.sampled_from(["run", "report", "runs", "threshold", "compare"]), words, paths), max_size=4),
)

# Run directories

json_values = st.recursive(
    st.one_of(st.none(), wild_numbers, st.booleans(), words, st.sampled_from(["nan", "inf", "1e5", "9" * 5000])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=5,
)
JUNK = [b"", b" ", b"null", b"NaN", b"[]", b"{}", b"{", b"\xff", b"[" * 100_000, b"9" * 5000]
JUNK += [b'{"type": []}', b'{"type": {}, "a": 1}', b'{"type": "step"}', b'{"type": "verdict"}', b'{"type": "later"}']
JUNK += [
    b'{"type": "measurement", "ratio": 1e999}',
    b'{"type": "end", "outcome": "lost"}',
    b'{"type": "end", "step": []}',
]
JUNK += [b'{"type": "start", "versions": 3, "format": 99}', b'{"type": "step", "step": ' + b"9" * 400 + b"}"]


@st.composite
def damaged_runs(draw: st.DrawFn, config: bytes, events: bytes) -> dict[str, bytes]:
    """Files of a run directory with values changed, lines damaged, bytes cut off, or a file missing."""
    stored = [json.loads(line) for line in events.splitlines()]
    for _ in range(draw(st.integers(0, 4))):
        event = draw(st.sampled_from(stored))
        name = draw(st.sampled_from(sorted(event)))
        if draw(st.integers(0, 3)):
            event[name] = draw(json_values)
        elif len(event) > 1:
            del event[name]
    texts = [json.dumps(event).encode() for event in stored]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(texts) - 1))
        texts[at] = draw(st.one_of(st.sampled_from(JUNK), st.just(texts[at][: len(texts[at]) // 2])))
    content = b"\n".join(texts) + draw(st.sampled_from([b"\n", b"", b'\n{"type": "st', b"\n\n\n", b"\n\xff\xfe"]))
    content = draw(st.sampled_from([*[content] * 8, b"", b"\0" * 100, content[: len(content) // 3], events + events]))
    config = draw(st.one_of(*[st.just(config)] * 3, mutated_configs()))
    files = {"runs/torn/events.jsonl": content, "runs/torn/config.toml": config}
    missing = draw(st.sampled_from([*[None] * 6, *files]))
    return {name: content for name, content in files.items() if name != missing}


readers = st.one_of(
    st.builds(lambda more, out: ["report", "runs/torn", *more, "-o", out], st.sampled_from([[], ["runs/old"]]), paths),
    st.sampled_from(
        [
            ["report", "runs/torn"],
            ["report", "runs/torn", "runs/old"],
            ["runs"],
            ["runs", "--json"],
            ["runs", "runs/torn"],
            ["compare", "runs/torn", "runs/old"],
            ["compare", "runs", "--json"],
            ["resume", "runs/torn"],
        ]
    ),
    st.just(["run", "runs/torn/config.toml", "--set", "num_steps=2"]),
)


# Runs that were killed, and resumed


@st.composite
def damaged_checkpoints(draw: st.DrawFn, files: dict[str, bytes]) -> dict[str, bytes]:
    """Files of a killed run with some of them cut, overwritten in places, lengthened or missing."""
    damaged = dict(files)
    for name in draw(st.lists(st.sampled_from(sorted(files)), max_size=2)):
        content = files[name]
        at = draw(st.integers(0, len(content)))
        damaged[name] = draw(
            st.sampled_from(
                [content[:at], content[:at] + b"\0\xff{" + content[at + 3 :], content + b'{"type": "st', b""]
            )
        )
    missing = draw(st.sampled_from([*[None] * 4, *files]))
    return {name: content for name, content in damaged.items() if name != missing}


resumptions = st.builds(
    lambda more: ["resume", "runs/killed", *more], st.sampled_from([[], ["--anyway"], ["--report"]])
)
