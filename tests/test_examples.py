"""Every example in a docstring of the library prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re

import pytest

import tightrope


def modules_with_examples():
    """Names of every module whose source shows an example, told without importing it."""
    for info in pkgutil.walk_packages(tightrope.__path__, "tightrope."):
        source = info.module_finder.find_spec(info.name).loader.get_source(info.name)
        if ">>> " in source:
            yield info.name


MODULES = sorted(modules_with_examples())


class Sections(doctest.DocTestParser):
    """Reads an example up to the next section of its docstring, which follows without a blank line."""

    def parse(self, string, name="<string>"):
        return doctest.DocTestParser.parse(self, re.sub(r"\n( *[A-Z][a-z]+:\n)", r"\n\n\1", string), name)


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    examples = doctest.DocTestFinder(parser=Sections(), exclude_empty=True).find(module, name)
    runner = doctest.DocTestRunner()
    for each in examples:
        runner.run(each)
    assert runner.summarize().attempted > 0
    assert runner.summarize().failed == 0


def test_modules_with_examples_are_found():
    assert {"tightrope.errors", "tightrope.curvature.products", "tightrope.curvature.routes"} <= set(MODULES)
