"""What a program is like: whether it parses, is whole and does something."""

from __future__ import annotations

import builtins
import re
import sys
from dataclasses import dataclass
from functools import cache

from tree_sitter import Node, Query, QueryCursor

from mulligan.extraction.grammars import language_of, parse

MOST_CODE = 10_000  # characters of a block; by default a request may have no more
_SECONDS = 0.05

# Names a program binds, names that are no variables (``skip``), and all of them (``id``).
_NAMES = {
    "python": """
(identifier) @id
[(assignment left: (identifier) @bound) (named_expression name: (identifier) @bound)
 (pattern_list (identifier) @bound) (tuple_pattern (identifier) @bound)
 (list_pattern (identifier) @bound) (list_splat_pattern (identifier) @bound)
 (dictionary_splat_pattern (identifier) @bound) (for_statement left: (identifier) @bound)
 (for_in_clause left: (identifier) @bound) (function_definition name: (identifier) @bound)
 (class_definition name: (identifier) @bound) (parameters (identifier) @bound)
 (lambda_parameters (identifier) @bound) (typed_parameter (identifier) @bound)
 (default_parameter name: (identifier) @bound) (typed_default_parameter name: (identifier) @bound)
 (as_pattern_target (identifier) @bound) (global_statement (identifier) @bound)
 (aliased_import alias: (identifier) @bound)
 (import_statement name: (dotted_name . (identifier) @bound))
 (import_from_statement name: (dotted_name (identifier) @bound))
 (case_pattern (dotted_name (identifier) @bound)) (splat_pattern (identifier) @bound)]
[(attribute attribute: (identifier) @skip) (keyword_argument name: (identifier) @skip)
 (import_from_statement module_name: (_ (identifier) @skip))
 (import_statement name: (dotted_name (identifier) (identifier) @skip))
 (import_from_statement module_name: (relative_import (dotted_name (identifier) @skip)))
 (aliased_import name: (dotted_name (identifier) @skip))
 (keyword_pattern (identifier) @skip) (type (identifier) @skip)]
(wildcard_import) @wild
(block) @body
""",
    "javascript": """
(identifier) @id
[(variable_declarator name: (identifier) @bound) (function_declaration name: (identifier) @bound)
 (generator_function_declaration name: (identifier) @bound)
 (function_expression name: (identifier) @bound) (class_declaration name: (identifier) @bound)
 (formal_parameters (identifier) @bound) (arrow_function parameter: (identifier) @bound)
 (catch_clause parameter: (identifier) @bound) (rest_pattern (identifier) @bound)
 (assignment_pattern left: (identifier) @bound) (array_pattern (identifier) @bound)
 (object_pattern (shorthand_property_identifier_pattern) @bound)
 (object_assignment_pattern left: (shorthand_property_identifier_pattern) @bound)
 (pair_pattern value: (identifier) @bound) (for_in_statement left: (identifier) @bound)
 (import_specifier alias: (identifier) @bound) (import_specifier name: (identifier) @bound)
 (import_clause (identifier) @bound) (namespace_import (identifier) @bound)]
(labeled_statement label: (_) @skip)
""",
}
_PYTHON_GLOBALS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "self", "cls"}
_JAVASCRIPT_GLOBALS = frozenset(
    """Array ArrayBuffer Atomics BigInt Boolean Buffer DataView Date Error EvalError Float32Array
    Float64Array Function Infinity Int32Array Intl Iterator JSON Map Math NaN Number Object Promise
    Proxy RangeError ReferenceError Reflect RegExp Set String Symbol SyntaxError TextDecoder
    TextEncoder TypeError URL URLSearchParams Uint8Array Uint32Array WeakMap WeakRef WeakSet
    AbortController Event EventTarget arguments async clearInterval clearTimeout console crypto
    exports fetch global globalThis isFinite isNaN module parseFloat parseInt performance process
    queueMicrotask require setImmediate setInterval setTimeout structuredClone undefined
    __dirname __filename escape encodeURIComponent decodeURIComponent""".split()  # noqa: SIM905
)
_GLOBALS = {"python": _PYTHON_GLOBALS, "javascript": _JAVASCRIPT_GLOBALS}
# Statements at the top of a program that do something.
_EFFECTS = {
    "python": {"for_statement", "while_statement", "if_statement", "with_statement"}
    | {"try_statement", "assert_statement", "match_statement", "raise_statement"},
    "javascript": {"for_statement", "for_in_statement", "while_statement", "if_statement"}
    | {"try_statement", "do_statement", "throw_statement", "switch_statement"},
}
_IMPORTED = re.compile(r"^[ \t]*(?:import|from)[ \t]+(\w+)", re.MULTILINE)
_RUST_MAIN = re.compile(r"^[ \t]*(?:pub[ \t]+)?(?:async[ \t]+)?fn[ \t]+main[ \t]*\(", re.MULTILINE)
_RUST_CRATE = re.compile(r"^[ \t]*use[ \t]+(\w+)::|^[ \t]*extern crate (\w+)", re.MULTILINE)
_RUST_OWN = frozenset(("std", "core", "alloc", "crate", "self", "super"))
_COMMENT = {
    "python": re.compile(r"#.*"),
    "bash": re.compile(r"^[ \t]*#.*", re.MULTILINE),
    "javascript": re.compile(r"//.*|/\*[^*]*\*+(?:[^/*][^*]*\*+)*/"),
    "rust": re.compile(r"//.*"),
}


@dataclass(frozen=True)
class Analysis:
    """A program looked into.

    Attributes:
        parses: whether its grammar accepts it; none if it was not looked into.
        does_something: whether it has a statement that acts when it is run.
        unknown: names it uses and does not define, at most ten.
        third_party: whether it imports what does not come with the language.
    """

    parses: bool | None
    does_something: bool = True
    unknown: tuple[str, ...] = ()
    third_party: bool = False


def is_empty(code: str, language: str) -> bool:
    """Whether there is nothing but blanks and comments."""
    comment = _COMMENT.get(language)
    if not code.strip():
        return True
    return comment is not None and len(code) <= MOST_CODE and not comment.sub("", code).strip()


def analyse(code: str, language: str) -> Analysis:
    """Looks into a program in a runnable language, by its syntax tree; runs nothing."""
    if len(code) > MOST_CODE:
        return Analysis(None)
    tree = parse(code, language, _SECONDS)
    if tree is None:
        return Analysis(None)
    if tree.root_node.has_error:
        return Analysis(parses=False)
    if language == "rust":
        crates = {first or second for first, second in _RUST_CRATE.findall(code)}
        return Analysis(
            True, _RUST_MAIN.search(code) is not None, third_party=bool(crates - _RUST_OWN)
        )
    if language == "bash":
        return Analysis(True)
    captures = QueryCursor(_query(language)).captures(tree.root_node)
    if any(not body.named_child_count for body in captures.get("body", ())):
        return Analysis(parses=False)  # the grammar takes a body that is not indented for none
    third = language == "python" and not set(_IMPORTED.findall(code)) <= sys.stdlib_module_names
    return Analysis(
        True, _acts(tree.root_node, language), _unknown(captures, code, language), third
    )


def _acts(root: Node, language: str) -> bool:
    for node in root.children:
        if node.type in _EFFECTS[language]:
            return True
        if node.type == "expression_statement" and node.children:
            expression = node.children[0]
            if expression.type == "assignment" and language == "python":
                continue
            if expression.type not in ("string", "ellipsis", "identifier"):
                return True
    return False


@cache
def _query(language: str) -> Query:
    return Query(language_of(language), _NAMES[language])


def _unknown(captures: dict[str, list[Node]], code: str, language: str) -> tuple[str, ...]:
    source = code.encode("utf-8", "replace")
    if captures.get("wild"):
        return ()

    def places(kind: str) -> set[tuple[int, int]]:
        return {(node.start_byte, node.end_byte) for node in captures.get(kind, ())}

    bound, skipped = places("bound"), places("skip")
    known = {source[start:end].decode() for start, end in bound} | _GLOBALS[language]
    used = {source[start:end].decode() for start, end in places("id") - bound - skipped}
    return tuple(sorted(used - known))[:10]
