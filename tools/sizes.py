"""Reports files and functions that have grown too long, and fails where there are any.

Usage: python tools/sizes.py [--list]
"""

import ast
import sys
from pathlib import Path

MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 60
MOST_TEST_FILE_LINES = 600
ROOT = Path(__file__).parent.parent
TABLES = "_programs.py"  # data written as Python


def functions(tree: ast.AST) -> list[tuple[str, int, int]]:
    """(name, first line, number of lines) of every function."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [(n.name, n.lineno, (n.end_lineno or n.lineno) - n.lineno + 1) for n in nodes]


def main() -> int:
    complaints = []
    files = []
    for path in sorted(
        [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/*.py")]
    ):
        text = path.read_text()
        lines = text.count("\n")
        files.append((lines, path.relative_to(ROOT)))
        most = MOST_TEST_FILE_LINES if "tests" in path.parts else MOST_FILE_LINES
        if lines > most and not path.name.endswith(TABLES):
            complaints.append(f"{path.relative_to(ROOT)}: {lines} lines, more than {most}")
        for name, first, length in functions(ast.parse(text)):
            if length > MOST_FUNCTION_LINES:
                where = f"{path.relative_to(ROOT)}:{first}"
                complaints.append(
                    f"{where}: {name} has {length} lines, more than {MOST_FUNCTION_LINES}"
                )
    if "--list" in sys.argv:
        for lines, path in sorted(files, reverse=True):
            print(f"{lines:5} {path}")
    total = sum(lines for lines, path in files if path.parts[0] == "src")
    print(f"{len(files)} files, {total} lines in src, longest {max(files)[1]} ({max(files)[0]})")
    print(*complaints, sep="\n")
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
