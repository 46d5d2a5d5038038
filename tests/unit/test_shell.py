"""Shell programs: whatever a value is, and wherever it stands, it is one word and nothing more."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from raytune_hpo import command
from raytune_hpo.errors import SpecError
from raytune_hpo.shell import ShellText

HOSTILE = [
    "a  b",
    "it's",
    'a "b"',
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "\nEOF\ntouch pwned\n",
    "*",
    "-n",
    "\\",
    "${HOME}",
    "}; touch pwned",
    ")touch pwned",
    "",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    show = tmp_path / "show"
    show.write_text("#!/bin/sh\nprintf '<%s>' \"$@\"\n")
    show.chmod(0o755)
    return tmp_path


def ran(folder: Path, run: str, value: object, *, setup: str | None = None) -> str:
    config = {"x": value}
    done = subprocess.run(
        command.build_argv(run, config, ["x"], setup),
        env={**os.environ, **command.environment(config, ["x"])},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not (folder / "pwned").exists()
    return done.stdout


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "word",
    [
        "${x}",
        "'${x}'",
        '"${x}"',
        '"$(printf %s "${x}")"',
        "\"$(printf %s '${x}')\"",
        '"`printf %s "${x}"`"',
        "${NOPE:-${x}}",
        '"${NOPE:-${x}}"',
        '"${NOPE:-"${x}"}"',
        '"$(case a in a) printf %s "${x}";; esac)"',
        '"$( (printf %s "${x}") )"',
        "\\\n${x}",
        '"$(# it\'s " a ) comment\n printf %s ${x})"',
    ],
)
def test_a_value_is_one_word(folder: Path, word: str, value: str) -> None:
    # $(...) takes the newlines at the end away.
    expected = value.rstrip("\n") if "$(" in word or "`" in word else value
    assert ran(folder, f"./show {word} end # it's\n", value) == f"<{expected}><end>"
    assert ran(folder, f"# don't\ntrue a#'b'; ./show {word} end", value) == f"<{expected}><end>"


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "opening", ["<<EOF", "<<'EOF'", '<<"EOF"', "<<\\EOF", "<<-EOF", "<< 'EOF'"]
)
def test_a_here_document_holds_the_value_as_it_is(folder: Path, opening: str, value: str) -> None:
    run = f"cat {opening}; ./show ${{x}}\nit's \"'${{x}}\nEOF\n./show '${{x}}'"
    assert ran(folder, run, value) == f"it's \"'{value}\n" + f"<{value}>" * 2


def test_a_quoted_here_document_is_not_expanded(folder: Path) -> None:
    body = "$HOME ${HOME} `id` $(id) \\ \\\\ \\$ $$ ' \" \\\n"
    assert ran(folder, f"cat <<'EOF'\n{body}${{x}}\nEOF\n", "a") == f"{body}a\n"


def test_two_here_documents_on_one_line(folder: Path) -> None:
    run = "{ cat; cat <&4; } <<A 4<<'B'\n${x} $((1+1))\nA\n${x} $((1+1))\nB\n"
    assert ran(folder, run, "v") == "v 2\nv $((1+1))\n"


def test_no_here_document(folder: Path) -> None:
    assert ran(folder, "echo $((1<<2)) '${x}' \"${x}\"", "a b") == "4 a b a b\n"


@pytest.mark.parametrize(("value", "shown"), [(3, "7"), (-3, "1"), ("0x10", "20")])
def test_arithmetic(folder: Path, value: object, shown: str) -> None:
    assert ran(folder, "echo $(( (${x} + 2) + 2 ))", value) == f"{shown}\n"


def test_arithmetic_runs_no_index_of_an_array() -> None:
    program = ShellText("echo $(( ${x} + 1 ))", {"x": "V"}).text
    done = subprocess.run(
        ["bash", "-c", program], env={**os.environ, "V": "a[$(echo >&2 ran)]"}, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"1\n", b"")


@pytest.mark.parametrize(
    "run",
    [
        "echo $x $$ ${y} \\${x} $${x} ${x:-1} ${#x} '$x'",
        "cat <<'EOF'\n`a` $b \\ ${y}\nEOF\n",
        "echo a # ${x} it's\n",
        "echo 'not closed",
        'echo "not closed $(',
        "cat <<EOF\nnot closed",
        "echo <<<a",
        "(( a << b ))",
    ],
)
def test_all_else_stays_as_it_is(run: str) -> None:
    assert ShellText(run, {"x": "V"}).text == run


@pytest.mark.parametrize(
    "run",
    [
        "sh -c 'echo ${x}'",
        'bash -ec "echo ${x}"',
        "env A=1 timeout 9 /bin/sh \\\n -c 'echo ${x}'",
        "true; eval echo ${x}",
        "ssh host 'train ${x}'",
        "bash <<EOF\necho ${x}\nEOF",
        "bash<<'EOF'\necho ${x}\nEOF",
        "exec sh 2>&1 -s <<EOF\necho ${x}\nEOF",
        "su -c 'echo ${x}' me",
        ("sh", "-c", "echo ${x}"),
        ("timeout", "9", "bash", "-lc", "echo ${x}"),
    ],
)
def test_a_second_shell_gets_no_program(run: str | tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match=r'second shell.*write "\$RAYTUNE_HPO_PARAM_X"'):
        command.build_argv(run, {"x": "$(touch pwned)"}, ["x"])
    for value in (0.01, -3, True, None, "adam", "a/b.c:d"):
        assert command.build_argv(run, {"x": value}, ["x"])


@pytest.mark.parametrize(
    "run",
    [
        "python -c 'print(\"${x}\")'",
        "sh train.sh ${x}",
        "sh -c true; echo ${x}",
        "sh -c 'echo $1' sh ${x}",
        ("sh", "-c", 'echo "$1"', "sh", "${x}"),
    ],
)
def test_what_is_no_program_of_a_shell_may_hold_any_value(run: str | tuple[str, ...]) -> None:
    assert command.build_argv(run, {"x": "$(touch pwned)"}, ["x"])


def test_a_second_shell_takes_harmless_values(folder: Path) -> None:
    assert ran(folder, "sh -c 'echo ${x}' && sh -c \"echo ${x}\"", 0.5) == "0.5\n0.5\n"


def test_a_setup_hands_on_variables_and_its_exit_code(folder: Path) -> None:
    assert ran(folder, "echo $A ${x}", 1, setup="A=4 # it's") == "4 1\n"
    for run in ("echo ran", ("echo", "ran")):
        argv = command.build_argv(run, {}, [], "sh -c 'exit 42'")
        done = subprocess.run(argv, capture_output=True)
        assert (done.returncode, done.stdout) == (42, b"")
