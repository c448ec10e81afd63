"""The room costs nothing until a framework is named, and says what to install where one is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "lightning", "pytorch_lightning", "transformers", "accelerate", "peft")


def loaded(code):
    line = f"import sys; {code}; print(*(name for name in {FRAMEWORKS} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    return result.stdout.split()


def test_importing_the_room_loads_no_framework():
    assert loaded("import tightrope as tr; tr.integrations") == []


def test_accelerates_module_needs_no_framework_but_torch():
    assert loaded("import tightrope as tr; tr.integrations.accelerate") == ["torch"]


@pytest.mark.parametrize(
    ("name", "missing"), [("lightning", ("lightning", "pytorch_lightning")), ("transformers", ("transformers",))]
)
def test_without_its_framework_a_module_says_what_to_install(name, missing):
    absent = "; ".join(f"sys.modules[{each!r}] = None" for each in missing)
    code = f"import sys; {absent}; import tightrope as tr; tr.integrations.{name}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert f"Install tightrope[{name}]." in result.stderr.splitlines()[-1]


def test_an_unknown_framework_is_an_attribute_error():
    from tightrope import integrations

    with pytest.raises(AttributeError, match="has no attribute 'keras'"):
        integrations.keras  # noqa: B018
