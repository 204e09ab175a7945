"""E-mail addresses, phone and card numbers in a text: found, and masked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import phonenumbers

Kind = Literal["email_address", "phone_number", "card_number"]
MASKS: dict[Kind, str] = {"email_address": "[EMAIL]", "phone_number": "[PHONE]", "card_number": "[CARD]"}
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}\.[A-Za-z]{2,24}")
_CARD = re.compile(r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d]|[.,]\d)")
# a plus, or groups as a local number is written; digits alone are an order's number as often as a phone's
_PHONE = re.compile(r"(?<![\w.,+-])(?:\+\d[\d ()./-]{6,22}\d|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?![\w]|[.,]\d)")


def find(text: str) -> Iterator[tuple[Kind, int, int]]:
    """(kind, start, end) of each, not overlapping, in no order. Addresses under example.* are nobody's."""
    taken: list[tuple[int, int]] = []
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if not re.search(r"@(?:[\w-]+\.)*example\.\w+$", match[0]):
                taken.append(match.span())
                yield "email_address", *match.span()
    if sum(character.isdigit() for character in text[:100_000]) < 7:
        return
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if digits[0] in "23456" and len(set(digits)) > 1 and _luhn(digits):
            taken.append(match.span())
            yield "card_number", *match.span()
    for match in _PHONE.finditer(text):
        start, end = match.span()
        if not any(start < other_end and other_start < end for other_start, other_end in taken) and _is_phone(match[0]):
            yield "phone_number", start, end


def mask(text: str) -> str:
    for kind, start, end in sorted(find(text), key=lambda found: -found[1]):
        text = text[:start] + MASKS[kind] + text[end:]
    return text


def _luhn(digits: str) -> bool:
    """https://en.wikipedia.org/wiki/Luhn_algorithm"""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_phone(text: str) -> bool:
    try:
        number = phonenumbers.parse(text, None if text.startswith("+") else "US")
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number)
