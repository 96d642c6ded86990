"""Measure modules and functions against the limits of the house.

A module has a soft limit, which is only reported, and a hard one; a function has a hard one. The length of a
function is counted from its `def` to its last line, without its docstring: decorators and explanations are free.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES_SOFT = 400
MODULE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70

Function = ast.FunctionDef | ast.AsyncFunctionDef


def function_lines(function: Function) -> int:
    """Count the lines of a function, without its decorators and docstring."""
    count = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        count -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return count


def findings(module: Path) -> Iterator[tuple[bool, str]]:
    """Yield what is too long in a module: whether it fails the check, and a sentence."""
    text = module.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > MODULE_LINES_SOFT:
        too_long = lines > MODULE_LINES_MAX
        limit = f"the limit is {MODULE_LINES_MAX}" if too_long else f"{MODULE_LINES_SOFT} are better"
        yield too_long, f"{module}: {lines} lines; {limit}"
    for node in ast.walk(ast.parse(text, filename=str(module))):
        if isinstance(node, Function) and function_lines(node) > FUNCTION_LINES_MAX:
            sentence = f"{node.name} has {function_lines(node)} lines; the limit is {FUNCTION_LINES_MAX}"
            yield True, f"{module}:{node.lineno}: {sentence}"


def main(folders: list[str]) -> int:
    """Print what is too long below the folders; return 1 if a hard limit is passed."""
    failed = False
    for folder in folders:
        for module in sorted(Path(folder).rglob("*.py")):
            for fails, sentence in findings(module):
                failed |= fails
                print(sentence if fails else f"note: {sentence}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
