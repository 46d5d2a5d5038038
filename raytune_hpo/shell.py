"""Where the placeholders of a shell program stand, and what to put there.

A value never becomes part of the program's text: a reference to an environment variable takes the
placeholder's place, quoted as its surroundings need it, so the shell reads any value as one word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

PLACEHOLDER = re.compile(r"\$\$|\$\{([A-Za-z_][\w.-]*)\}")
_HEREDOC = re.compile(r"<<(-?)([ \t]*)('[^'\n]*'|\"[^\"\n]*\"|\\?[A-Za-z_][\w.-]*)")
_CASE = re.compile(r"case\s+\S+\s+in\b")
_ESAC = re.compile(r"esac\b")
_EXPANDED = re.compile(r"[\\$`]")
_SPACE = " \t\n"
_ENDS_COMMAND = "\n;&|()"
_SHELLS = frozenset({"sh", "ash", "bash", "dash", "ksh", "mksh", "zsh", "su"})
_TAKES_PROGRAM = re.compile(r"-[A-Za-z]*c")
# In arithmetic bash would run what stands in the index of an array: cut there.
_ONLY_NUMBER = "%%[!0-9A-Za-z_.+-]*"


def is_program(words: Sequence[str]) -> bool:
    """Return whether the word after these of a command is a shell program, and not just data.

    >>> is_program(["timeout", "9", "/bin/sh", "-ec"]), is_program(["python", "-c"])
    (True, False)
    """
    names = [word.strip("'\"").rpartition("/")[2] for word in words]
    if any(name in ("eval", "ssh") for name in names):
        return True
    return (
        bool(words) and bool(_TAKES_PROGRAM.fullmatch(words[-1])) and not _SHELLS.isdisjoint(names)
    )


class ShellText:
    r"""A shell program whose placeholders are references.

    Args:
        run: The program, with ``${name}`` for values.
        references: Environment variable for each name; other ``${...}`` are left alone.

    Attributes:
        text: The program to run.
        inner: Names of values that another shell reads again, as in ``sh -c '... ${name}'``,
            ``eval``, ``ssh``, or a here-document for a shell.

    Example:
        >>> ShellText("train --lr ${lr} \"a ${lr}\" 'b ${lr}' ${HOME}", {"lr": "V"}).text
        'train --lr "${V}" "a ${V}" \'b \'"${V}"\'\' ${HOME}'
    """

    def __init__(self, run: str, references: Mapping[str, str]) -> None:
        self._run = run
        self._references = references
        self._at = 0
        self._out: list[str] = []
        self._words: list[str] = []  # of the command so far, without the word read now
        self._word_at = 0
        self._heredocs: list[_Heredoc] = []
        self.inner: set[str] = set()
        self._code("")
        self.text = "".join(self._out)

    def _next(self) -> str:
        """Return a placeholder, an escaped character, or one character."""
        match = PLACEHOLDER.match(self._run, self._at)
        if match is not None:
            return match[0]
        return self._run[self._at : self._at + (2 if self._run[self._at] == "\\" else 1)]

    def _copy(self, text: str) -> None:
        self._out.append(text)
        self._at += len(text)

    def _put(self, piece: str, form: str) -> bool:
        """Put a reference in a placeholder's place; return False if it is none of ours.

        Args:
            piece: What stands in the program.
            form: What is put there, with V for the reference.
        """
        match = PLACEHOLDER.fullmatch(piece)
        if match is None or match[1] not in self._references:
            return False
        if is_program(self._words):
            self.inner.add(match[1])
        self._out.append(form.replace("V", self._references[match[1]]))
        self._at += len(piece)
        return True

    def _code(self, close: str) -> None:
        """Copy program text up to and with its closing sign; none at the end of the program."""
        outside = self._words, self._word_at
        self._words, self._word_at = [], self._at
        cases = 0
        while self._at < len(self._run):
            piece = self._next()
            begins = self._at == self._word_at
            cases += self._change_of_cases(begins)
            if piece == close and not (piece == ")" and cases > 0):
                self._copy(piece)
                break
            if begins and piece == "#" and close != "}":
                self._copy(self._run[self._at :].partition("\n")[0])
            elif not self._put(piece, '"${V}"'):
                self._part(piece)
            self._note(piece)
        self._words, self._word_at = outside

    def _change_of_cases(self, begins: bool) -> int:
        """Return 1 where a ``case`` begins and -1 where it ends; its patterns end with a ``)``."""
        if begins and _CASE.match(self._run, self._at):
            return 1
        return -1 if begins and _ESAC.match(self._run, self._at) else 0

    def _note(self, piece: str) -> None:
        """Take note of the word, the command or the line that ends with this piece."""
        if piece not in _SPACE and piece not in _ENDS_COMMAND:
            return
        if piece == "&" and self._run[self._at - 2 : self._at] == ">&":
            return
        self._words = [*self._words, *self._word(len(piece))] if piece in " \t" else []
        self._word_at = self._at
        if piece == "\n":
            for heredoc in self._heredocs:
                self._body(heredoc)
            self._heredocs = []
            self._word_at = self._at

    def _word(self, after: int = 0) -> list[str]:
        """Return the word that is read now, if there is any of it."""
        word = self._run[self._word_at : self._at - after].replace("\\\n", "")
        return [word] if word else []

    def _part(self, piece: str) -> None:
        """Copy a piece of program text with all that it opens."""
        if piece == "'":
            self._single()
        elif piece == '"':
            self._double()
        elif piece in ("`", "("):
            self._copy(piece)
            self._code({"(": ")"}.get(piece, piece))
        elif piece == "$":
            self._dollar()
        elif piece == "<":
            self._redirection()
        else:
            self._copy(piece)

    def _single(self) -> None:
        self._copy("'")
        while self._at < len(self._run):
            match = PLACEHOLDER.match(self._run, self._at)
            piece = match[0] if match else self._run[self._at]
            if not self._put(piece, "'\"${V}\"'"):
                self._copy(piece)
                if piece == "'":
                    return

    def _double(self) -> None:
        self._copy('"')
        while self._at < len(self._run):
            piece = self._next()
            if self._put(piece, "${V}"):
                continue
            self._expansion(piece)
            if piece == '"':
                return

    def _expansion(self, piece: str) -> None:
        """Copy a piece of text that is expanded but holds no quotes."""
        if piece == "$":
            self._dollar(quoted=True)
        elif piece == "`":
            self._part(piece)
        else:
            self._copy(piece)

    def _dollar(self, *, quoted: bool = False) -> None:
        """Copy an expansion, or a sign that is none."""
        if self._run.startswith("$((", self._at):
            self._arithmetic()
        elif self._run.startswith("$(", self._at):
            self._copy("$(")
            self._code(")")
        elif self._run.startswith("${", self._at):
            self._copy("${")
            self._braces(quoted)
        else:
            self._copy("$")

    def _braces(self, quoted: bool) -> None:
        """Copy the rest of ``${name:-...}``."""
        if not quoted:
            self._code("}")
            return
        while self._at < len(self._run):
            piece = self._next()
            if piece == '"':
                self._double()
            elif not self._put(piece, "${V}"):
                self._expansion(piece)
                if piece == "}":
                    return

    def _arithmetic(self) -> None:
        self._copy("$((")
        depth = 2
        while depth and self._at < len(self._run):
            piece = self._next()
            depth += (piece == "(") - (piece == ")")
            if not self._put(piece, "${V" + _ONLY_NUMBER + "}"):
                self._expansion(piece)

    def _redirection(self) -> None:
        match = _HEREDOC.match(self._run, self._at)
        if match is None or self._run.startswith("<<<", self._at):
            self._copy("<<<" if self._run.startswith("<<<", self._at) else "<")
            return
        heredoc = _Heredoc(match, len(self._out), [*self._words, *self._word()])
        self._copy(match[0])
        if heredoc.end.search(self._run, self._at):
            self._heredocs.append(heredoc)

    def _body(self, heredoc: _Heredoc) -> None:
        """Copy a here-document; one that is not expanded is made one that is, with all escaped."""
        end = heredoc.end.search(self._run, self._at)
        stop = len(self._run) if end is None else end.start()
        ours = any(
            m[1] in self._references for m in PLACEHOLDER.finditer(self._run, self._at, stop)
        )
        if not ours:
            self._copy(self._run[self._at : stop])
            return
        self._out[heredoc.opening] = heredoc.unquoted
        outside, self._words = self._words, heredoc.reader
        while self._at < stop:
            match = PLACEHOLDER.match(self._run, self._at)
            if match is not None and self._put(match[0], "${V}"):
                continue
            if heredoc.literal:
                piece = match[0] if match else self._run[self._at]
                self._out.append(_EXPANDED.sub(r"\\\g<0>", piece))
                self._at += len(piece)
            else:
                self._expansion(self._next())
        self._words = outside


class _Heredoc:
    """A here-document whose body is still to come.

    Args:
        match: Its opening.
        opening: Where that stands in the output.
        words: Of the command that reads it.
    """

    def __init__(self, match: re.Match[str], opening: int, words: Sequence[str]) -> None:
        dash, blank, word = match.groups()
        delimiter = word.strip("'\"\\")
        self.opening = opening
        self.literal = word != delimiter
        self.unquoted = f"<<{dash}{blank}{delimiter}"
        tabs = r"\t*" if dash else ""
        self.end = re.compile(rf"^{tabs}{re.escape(delimiter)}$", re.MULTILINE)
        names = {name.rpartition("/")[2] for name in words}
        self.reader = [*words, "-c"] if names & _SHELLS else list(words)
