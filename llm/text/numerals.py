"""The numbers of lists, as Word and web pages show them."""

from collections.abc import Callable


def roman(n: int) -> str:
    """A number in capital Roman numerals."""
    digits = [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")]
    result = ""
    for value, letters in [*digits, (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]:
        result, n = result + letters * (n // value), n % value
    return result


def letters(n: int) -> str:
    """The n-th of a, b, ..., z, aa, ab, ...; n: from 1."""
    result = ""
    while n > 0:
        n, last = divmod(n - 1, 26)
        result = "abcdefghijklmnopqrstuvwxyz"[last] + result
    return result


STYLES: dict[str, Callable[[int], str]] = {  # the type of a list in HTML -> its n-th number, counted from 1
    "a": letters,
    "A": lambda n: letters(n).upper(),
    "i": lambda n: roman(n).lower(),
    "I": roman,
}
MAX_NUMBER = 3999  # larger ones are shown in digits, as are 0 and below


def numeral(n: int, style: str) -> str:
    """The n-th number of a list in a style of HTML's; "1" and unknown ones are digits."""
    return STYLES.get(style, str)(n) if 0 < n <= MAX_NUMBER else str(n)
