r"""Text of strangers, shown so that a terminal or a page takes it for nothing but text.

What trials print, what they raise, and what an experiment file calls its metrics may hold
sequences that clear the screen, set the title, fill the clipboard or turn the writing direction.
``visible`` and ``lines`` make one line of one text; ``for_terminal`` passes the output of a
program on, line by line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from unicodedata import category

MAX_LINE = 10_000
"""Characters of a line on a screen; what is longer is no longer read."""
RESET = "\x1b[0m"
"""Ends the colours that a program left switched on."""

_COLOUR = re.compile(r"\x1b\[([0-9;]{0,60})m")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;]{0,60})?\Z|\r\Z")
_DOUBTFUL = re.compile(r"[^\n\t -~]")
_HARMLESS = frozenset({"Zs", "Co"})
"""Categories that Python does not call printable, but that steer nothing: blanks, private use."""
_STYLES = frozenset({*range(8), 9, *range(21, 28), 29, 39, 49, *range(90, 98), *range(100, 108)})
"""Weights and colours; 8, which hides text, and 28, which ends that, are not among them."""
_STYLES |= {*range(30, 38), *range(40, 48)}


def visible(text: str) -> str:
    r"""Return a text as one line in which every control character is written out.

    Colours are left out: they are no more than decoration.

    >>> visible("a\x1b]0;title\x07\nb"), visible("\x1b[31mred\x1b[0m"), visible("\u202eabc")
    ('a\\x1b]0;title\\x07\\nb', 'red', '\\u202eabc')
    """
    if text.isprintable():
        return text
    return "".join(map(_written, _COLOUR.sub("", text)))


def lines(texts: Iterable[str], most: int = MAX_LINE) -> str:
    r"""Return texts as one line each, with a newline after each.

    Args:
        texts: What the lines are made of.
        most: Characters of a line that are shown.

    >>> lines(["a\rb", "c"])
    'a\\rb\nc\n'
    """
    return "".join(f"{cut(visible(text), most)}\n" for text in texts)


def cut(text: str, most: int) -> str:
    """Return a text of at most so many characters; an ellipsis ends one that was longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def for_terminal(pieces: Iterable[bytes], encoding: str = "utf-8") -> Iterator[bytes]:
    r"""Yield the output of a program for a terminal.

    Weights and colours pass. Carriage returns, by which a progress bar writes over its line, begin
    a new line. All other control characters, and bytes that are no UTF-8, are written out. Write
    ``RESET`` at the end.

    Args:
        pieces: The output, cut anywhere.
        encoding: Of the terminal.

    >>> b"".join(for_terminal([b"50%\r60%\r\n\x1b[31mred \x1b[2J\xff"]))
    b'50%\n60%\n\x1b[31mred \\x1b[2J\\xff'
    """
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    rest = ""
    for piece in pieces:
        text = rest + decoder.decode(piece)
        unfinished = _UNFINISHED.search(text)
        end = unfinished.start() if unfinished else len(text)
        text, rest = text[:end], text[end:]
        yield _steered(text).encode(encoding, "backslashreplace")
    last = _steered(rest + decoder.decode(b"", final=True))
    yield last.encode(encoding, "backslashreplace")


def _steered(text: str) -> str:
    """Return text with newlines, tabs and colours as its only control characters."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    parts: list[str] = []
    begin = 0
    for colour in _COLOUR.finditer(text):
        if _is_plain(colour[1]):
            parts += [_shown(text[begin : colour.start()]), colour[0]]
            begin = colour.end()
    return "".join([*parts, _shown(text[begin:])])


def _shown(text: str) -> str:
    return _DOUBTFUL.sub(lambda found: _written(found[0]), text)


def _written(sign: str) -> str:
    if sign.isprintable() or category(sign) in _HARMLESS:
        return sign
    return sign.encode("unicode_escape").decode("ascii")


def _is_plain(numbers: str) -> bool:
    """Return whether the numbers of a sequence set weights and colours only."""
    left = iter(numbers.split(";"))
    for number in left:
        value = int(number or 0)
        if value in (38, 48):
            # A colour by its number in a table, or by red, green and blue.
            further = {"5": 1, "2": 3}.get(next(left, ""), 0)
            if not further or any(next(left, "") == "" for _ in range(further)):
                return False
        elif value not in _STYLES:
            return False
    return True
