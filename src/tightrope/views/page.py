"""The page around the panels: verdicts first, then pictures, then a table; every stored text escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files

from tightrope.store import RunRecord

from .facts import column, key_numbers, labels, number, settings, surroundings
from .figures import Panel
from .palette import DARK, look

_TONES = {
    "at the edge": "calm",
    "stable": "good",
    "unstable": "bad",
    "diverged": "bad",
    "interrupted": "warn",
    "unfinished": "warn",
}
_GUIDE = (
    "<b>How to read this.</b> A loss surface has a curvature, and a step size can take only so much of it. The "
    "<b>ratio</b> compares the two: the largest curvature the optimizer feels, divided by the largest it can take "
    "before a small disturbance grows. The <b>edge of stability</b> is a ratio of 1. Training tends to sharpen until "
    "it gets there, and then stays: being at the edge is normal, growth beyond it is not."
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


def render(runs: Sequence[RunRecord], panels: Iterable[Panel], title: str, plotly_js: str) -> str:
    """The page of some runs as text."""
    above = (_cards(runs), f'<p class="guide">{_GUIDE}</p>')
    return document(title, above, list(panels), (_table(runs),), plotly_js)


def document(title: str, above: Sequence[str], panels: Sequence[Panel], below: Sequence[str], plotly_js: str) -> str:
    """A whole page as text; it names no address outside itself, and its policy forbids it to load any.

    Args:
        title: Plain text.
        above, below: What stands around the panels, as HTML.
        panels: The pictures.
        plotly_js: The script that draws them.
    """
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<style>{_resource('page.css')}</style></head><body><main>",
        f"<h1>{html.escape(title)}</h1>",
        *above,
        "<noscript><p>The panels are drawn by a script; without one, the words and numbers remain.</p></noscript>",
        *(_figure(panel) for panel in panels),
        *below,
        "</main>",
        *(_data(f"figure-{panel.name}", panel.figure) for panel in panels),
        _data("dark-colors", DARK),
        f"<script>{plotly_js}</script><script>{_resource('page.js')}</script></body></html>",
    ]
    return "\n".join(parts)


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _data(name: str, value: object) -> str:
    """A JSON island; no `<` in it can end it early."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _cards(runs: Sequence[RunRecord]) -> str:
    """A card a run, its verdict first; what all runs share is said once, below."""
    facts = [settings(run) for run in runs]
    shared = [fact for fact in facts[0] if all(fact in others for others in facts)] if len(runs) > 1 else []
    cards = "".join(
        _card(index, label, run, [fact for fact in facts[index] if fact not in shared])
        for index, (label, run) in enumerate(zip(labels(runs), runs, strict=True))
    )
    all_runs = f'<div class="shared">In all runs: {_facts(shared)}</div>' if shared else ""
    return f'<section class="cards" aria-label="Verdicts">{cards}</section>{all_runs}'


def _card(index: int, label: str, run: RunRecord, facts: Sequence[str]) -> str:
    name, words = _verdict(run)
    return (
        f'<article class="card"><h2>{_swatch(index)}{html.escape(label)}</h2>'
        f'<p class="words">{html.escape(words)}</p>'
        f'<p class="badges">{_badge(name)}{_badge(run.outcome)}</p>'
        f"{_latest(run)}{_surroundings(run)}{_facts(facts)}</article>"
    )


def _facts(facts: Sequence[str]) -> str:
    return '<ul class="facts">' + "".join(f"<li>{html.escape(fact)}</li>" for fact in facts) + "</ul>"


def _verdict(run: RunRecord) -> tuple[str, str]:
    """Name and words of the run's verdict; of its last measurement while it has none."""
    if run.verdict:
        return str(run.verdict.get("name", "no verdict")), str(run.verdict.get("words", ""))
    if not len(run.measurements["step"]):
        return "no verdict", "No verdict and no measurement is stored yet."
    step = number(run.measurements["step"][-1])
    return column(run, "verdict")[-1] or "no verdict", f"So far, at step {step}: {column(run, 'words')[-1] or ''}"


def _latest(run: RunRecord) -> str:
    if not run.verdict or not len(run.measurements["step"]):
        return ""
    step, words = number(run.measurements["step"][-1]), str(column(run, "words")[-1] or "")
    return f'<p class="latest">Last measurement, step {step}: {html.escape(words)}</p>'


def _surroundings(run: RunRecord) -> str:
    words = " ".join(surroundings(run))
    return f'<p class="latest">{html.escape(words)}</p>' if words else ""


def _badge(name: str) -> str:
    return f'<span class="badge {_TONES.get(name, "plain")}">{html.escape(name.replace("_", " "))}</span>'


def _swatch(index: int) -> str:
    color = look(index).color
    return f'<span class="swatch" aria-hidden="true" style="--light:{color};--dark:{DARK[color]}"></span>'


def _figure(panel: Panel) -> str:
    heading, caption = html.escape(panel.heading), html.escape(panel.caption)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in panel.notes)
    below = f'<ul class="notes">{notes}</ul>' if notes else ""
    return (
        f'<section aria-labelledby="heading-{panel.name}"><h2 id="heading-{panel.name}">{heading}</h2>'
        f'<figure><figcaption>{caption}</figcaption><div class="plot" role="img" '
        f'aria-label="{heading}. {caption}" data-figure="figure-{panel.name}" '
        f'style="height:{panel.figure["layout"]["height"]}px"></div>{below}</figure></section>'
    )


def _table(runs: Sequence[RunRecord]) -> str:
    rows = [(index, label, run) for index, (label, run) in enumerate(zip(labels(runs), runs, strict=True))]
    heads = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in ("Run", *key_numbers(runs[0])))
    body = "".join(
        f'<tr><th scope="row">{_swatch(index)}{html.escape(label)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in key_numbers(run).values())
        + "</tr>"
        for index, label, run in rows
    )
    return (
        '<section aria-labelledby="heading-numbers"><h2 id="heading-numbers">Key numbers</h2>'
        '<div class="scroll" role="region" aria-labelledby="heading-numbers" tabindex="0">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        '<p class="caption">The plateau is the second half of the steps from the first one at the edge; its numbers '
        "are part of the stored verdict. Products are Hessian-vector products; time is processing time.</p></section>"
    )
