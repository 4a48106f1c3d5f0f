"""The README's code blocks run as written, and print what it says they print."""

import pathlib
import re
import shlex
import subprocess

import pytest
import typer

from tinyrnn.cli import app

README = pathlib.Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
pytestmark = pytest.mark.skipif(not TEXT, reason="the README is not beside the tests")


def blocks(language):
    """(line number, code) of every fenced block of a language."""
    return [(TEXT[: m.start()].count("\n") + 1, m[1]) for m in re.finditer(rf"```{language}\n(.*?)```", TEXT, re.S)]


def promised(code):
    """What a block says it prints: the comment behind each print, or behind the end of its call."""
    return re.findall(r"^(?:.*\bprint\(.*|\s*\)) {2,}# (.*)$", code, re.M)


def commands():
    """The command lines of the shell blocks that run `tinyrnn`, without their comments."""
    lines = [line.split("&&")[-1].strip() for _, code in blocks("sh") for line in code.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("tinyrnn ")]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_commands_are_understood(arguments):
    """Every command and option exists and takes these values; to run them all would take minutes."""
    command = typer.main.get_command(app)
    context = command.make_context("tinyrnn", list(arguments), resilient_parsing=False)
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def test_the_two_lines_are_shell(tmp_path):
    lines = [line for _, code in blocks("sh") for line in code.splitlines() if "venv" in line]
    assert [line.rpartition("&& ")[2] for line in lines] == ["tinyrnn train sentiment", "pytest"]
    for line in lines:
        subprocess.run(["sh", "-n", "-c", line], check=True)


def test_python_blocks_run_and_print_what_they_say(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one saves a file
    namespace = {"__name__": "readme"}
    for line, code in blocks("python"):
        exec(compile("\n" * line + code, str(README), "exec"), namespace)
        assert capsys.readouterr().out.splitlines() == promised(code)
