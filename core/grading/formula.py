"""Arithmetic that a user wrote, as a multi grader's `calculate_output`: parsed by Python's parser, evaluated by us.

Only numbers, names, + - * / ^, parentheses and eight functions; every value is a float, so no step can grow.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping

MAX_CHARS = 1000
MAX_NODES = 200


def _least(*values: float) -> float:
    return min(values)


def _greatest(*values: float) -> float:
    return max(values)


_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: math.pow,
}
_SIGNS: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: lambda a: a, ast.USub: lambda a: -a}
# Name to function and how many values it takes; None: one or more
_FUNCTIONS: dict[str, tuple[Callable[..., float], int | None]] = {
    "min": (_least, None),
    "max": (_greatest, None),
    "abs": (math.fabs, 1),
    "floor": (math.floor, 1),
    "ceil": (math.ceil, 1),
    "exp": (math.exp, 1),
    "sqrt": (math.sqrt, 1),
    "log": (math.log, 1),
}


class FormulaError(ValueError):
    """The text is no formula of ours, or names what is not there; the message says where."""


class Formula:
    """A parsed formula. Raises FormulaError for a text that is none."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARS:
            raise FormulaError(f"it has {len(text)} characters; {MAX_CHARS} are taken at most")
        try:
            # ^ is the power here, and binds as one: in Python it would bind weaker than a sum
            tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise FormulaError("it does not parse") from error
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            raise FormulaError("it has too many terms")
        self.names: set[str] = set()
        self._check(tree)
        self._tree = tree

    def evaluate(self, values: Mapping[str, float]) -> float:
        """Raises FormulaError for a name without a value, ArithmeticError or ValueError where no number comes out."""
        missing = self.names - values.keys()
        if missing:
            raise FormulaError(f"there is no grader named {min(missing)}")
        result = self._value(self._tree, values)
        if not math.isfinite(result):
            raise ArithmeticError("the result is no finite number")
        return result

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=bool()):
                raise FormulaError("only numbers, names of graders, + - * / ^ and functions are taken")
            case ast.Constant(value=int() | float()):
                pass
            case ast.Name(id=name):
                self.names.add(name)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                self._check(left)
                self._check(right)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
                self._check(operand)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
                count = _FUNCTIONS[name][1]
                if count is not None and len(args) != count:
                    raise FormulaError(f"{name} takes {count} value")
                for argument in args:
                    self._check(argument)
            case _:
                raise FormulaError("only numbers, names of graders, + - * / ^ and functions are taken")

    def _value(self, node: ast.expr, values: Mapping[str, float]) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name):
                return values[name]
            case ast.BinOp(left=left, op=op, right=right):
                return _OPERATORS[type(op)](self._value(left, values), self._value(right, values))
            case ast.UnaryOp(op=op, operand=operand):
                return _SIGNS[type(op)](self._value(operand, values))
            case ast.Call(func=ast.Name(id=name), args=args):
                return float(_FUNCTIONS[name][0](*[self._value(argument, values) for argument in args]))
            case _:
                raise AssertionError("checked when it was parsed")
