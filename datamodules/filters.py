"""Filter expressions over the fields of a sample, such as `edit_type in ("add", "remove") and width >= 512`.

A small language of its own that looks like Python: it is parsed, checked against a list of what is allowed and turned
into functions; nothing of it is ever executed as code, and it can reach nothing but the sample's fields.
"""

from __future__ import annotations

import ast
import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_LENGTH = 4000
"""Characters of the longest expression."""
MAX_DEPTH = 40
"""Levels of the most nested expression."""
Facts = Mapping[str, Any]
"""The fields of a sample by name, its metadata among them."""
_Value = Callable[[Facts], Any]
_ALLOWED = (
    "names of fields, texts, numbers, lists, and, or, not, in, is, comparisons, + - * / %, len(), lower(), draw()"
)
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
    ast.Is: operator.eq,  # `is None` is how one asks whether a field is missing
    ast.IsNot: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


class FilterError(ValueError):
    """An expression that is none; one line says where, what was found and what may stand there."""


class Filter:
    """An expression, over as many lines as one likes, that says of a sample whether it is chosen.

    A field that is missing is None. A comparison of what cannot be compared is false (`!=` and `not in` are true), and
    arithmetic with anything but numbers gives None: a sample never stops a run here.

    Functions: `len(x)`; `lower(text)`; `draw(text)`, a number in [0, 1) that depends on the text alone, so that
    `draw(key) < 0.95` and `draw(key) >= 0.95` split a folder for good.

    Attributes:
        text: the whole condition. names: the fields it asks for.

    Raises:
        FilterError: see there.
    """

    def __init__(self, text: str, edit_types: Sequence[str] | None = None) -> None:
        """`edit_types`: if given, a sample must be of one of these too."""
        self.text = text if edit_types is None else f"edit_type in {list(edit_types)!r} and ({text})"
        self.names: set[str] = set() if edit_types is None else {"edit_type"}
        self._edit_types = None if edit_types is None else frozenset(edit_types)
        if len(text) > MAX_LENGTH:
            raise FilterError(
                f"where: expected at most {MAX_LENGTH} characters, found {len(text)}; use shorter conditions"
            )
        try:
            tree = ast.parse(f"(\n{text}\n)", mode="eval").body
            deep = _depth(tree) > MAX_DEPTH
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            finding = error.msg if isinstance(error, SyntaxError) else str(error)
            raise FilterError(f"where: expected {_ALLOWED}; found {text!r}: {finding}") from error
        if isinstance(tree, ast.Tuple | ast.List | ast.Set):
            raise FilterError(f"where: expected a condition, found nothing or a list: {text!r}")
        if deep:
            raise FilterError(f"where: expected at most {MAX_DEPTH} levels of nesting; use a flatter condition")
        self._chosen = self._build(tree)

    def __call__(self, facts: Facts) -> bool:
        """Whether a sample with these fields is chosen."""
        of_type = self._edit_types is None or facts.get("edit_type") in self._edit_types
        return of_type and bool(self._chosen(facts))

    def _build(self, node: ast.expr) -> _Value:
        match node:
            case ast.Constant(value=str() | int() | float() | None as value):
                return lambda facts: value
            case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
                values = [self._build(element) for element in elements]
                return lambda facts: [value(facts) for value in values]
            case ast.Name(id=name):
                self.names.add(name)
                return lambda facts: facts.get(name)
            case ast.Attribute(value=inner, attr=name):
                return _item(self._build(inner), name)
            case ast.Subscript(value=inner, slice=ast.Constant(value=str() | int() as name)):
                return _item(self._build(inner), name)
            case ast.BoolOp(op=kind, values=parts):
                decide = all if isinstance(kind, ast.And) else any
                values = [self._build(part) for part in parts]
                return lambda facts: decide(value(facts) for value in values)
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                denied = self._build(inner)
                return lambda facts: not denied(facts)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return _calculation(operator.sub, lambda facts: 0, self._build(inner))
            case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _ARITHMETIC:
                return _calculation(_ARITHMETIC[type(kind)], self._build(left), self._build(right))
            case ast.Compare(left=left, ops=kinds, comparators=rights):
                return _comparison([self._build(each) for each in (left, *rights)], [type(kind) for kind in kinds])
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                function, value_of = _FUNCTIONS[name], self._build(argument)
                return lambda facts: function(value_of(facts))
        raise FilterError(f"where: expected {_ALLOWED}; found {ast.unparse(node)!r} in {self.text!r}")


def _depth(node: ast.AST) -> int:
    return 1 + max((_depth(child) for child in ast.iter_child_nodes(node)), default=0)


def _item(inner: _Value, name: str | int) -> _Value:
    def get(facts: Facts) -> Any:
        value = inner(facts)
        if isinstance(value, Mapping):
            return value.get(name)
        if isinstance(value, list) and isinstance(name, int) and -len(value) <= name < len(value):
            return value[name]
        return None

    return get


def _comparison(values: list[_Value], kinds: list[type[ast.cmpop]]) -> _Value:
    def compare(kind: type[ast.cmpop], left: Any, right: Any) -> bool:
        try:
            return bool(_COMPARISONS[kind](left, right))
        except TypeError:
            return kind is ast.NotIn

    def holds(facts: Facts) -> bool:
        found = [value(facts) for value in values]
        return all(compare(kind, *pair) for kind, *pair in zip(kinds, found, found[1:], strict=False))

    return holds


def _calculation(operation: Callable[[Any, Any], Any], left: _Value, right: _Value) -> _Value:
    def result(facts: Facts) -> Any:
        pair = left(facts), right(facts)
        if not all(isinstance(value, int | float) for value in pair):
            return None  # above all no text times a number, which could fill the memory
        try:
            return operation(*pair)
        except ArithmeticError:
            return None

    return result


def _draw(text: Any) -> float | None:
    if not isinstance(text, str):
        return None
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "len": lambda value: len(value) if isinstance(value, str | list | dict) else None,
    "lower": lambda value: value.lower() if isinstance(value, str) else None,
    "draw": _draw,
}
