"""What is told of the errors of libraries."""

from __future__ import annotations

import pytest

from commonart.core.errors import first_line, with_class


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("the config is not JSON.\nTraceback ..."), "the config is not JSON"),
        (EOFError(), "EOFError"),
        (EOFError(" \n"), "EOFError"),
        # As diffusers and transformers say it: the cause stands on a line of its own.
        (
            RuntimeError(
                "Failed to import diffusers.models.transformers.pixart because of the following error (look up to see its "
                "traceback):\n\nNo module named 'peft'\nmore"
            ),
            "Failed to import diffusers.models.transformers.pixart because of the following error (look up to see its "
            "traceback): No module named 'peft'",
        ),
        (RuntimeError("while reading:"), "while reading"),
        (RuntimeError("x" * 400), "x" * 300),
    ],
)
def test_a_librarys_error_is_told_in_one_line_with_its_cause(error: Exception, told: str) -> None:
    assert first_line(error) == told


def test_the_class_stands_once() -> None:
    assert with_class(KeyError("vae")) == "KeyError: 'vae'"
    assert with_class(EOFError()) == "EOFError"
