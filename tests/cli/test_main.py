"""The command line as a whole: exit codes, one-line failures, help."""

import re
import subprocess
import sys

import pytest

from registry_proxy import __version__
from registry_proxy.cli import main
from registry_proxy.errors import StoreUnusable

VERBS = ("serve", "check", "hosts", "warm", "stats", "verify")


def one_line(captured: pytest.CaptureFixture[str]) -> str:
    """The only line on standard error; nothing is on standard output."""
    out, err = captured.readouterr()
    assert out == ""
    assert err.startswith("registry-proxy: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    "tokens",
    [
        ["sreve"],
        ["serve", "--listne", "x"],
        ["serve", "word"],
        ["serve", "--listen"],
        ["hosts"],
        ["hosts", "emacs"],
        ["stats", "--json=perhaps"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake on the command line is answered by one line."""
    assert main.run(tokens) == 2
    one_line(capsys)


@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        (["serve", "word"], "registry-proxy: serve does not take 'word' (see registry-proxy serve --help)"),
        (["lazy", "ls"], 'Command "lazy ls" parameter IMAGE requires an argument (see registry-proxy lazy ls --help)'),
        (["sreve"], "(see registry-proxy --help)"),
    ],
)
def test_wrong_usage_names_the_help_of_the_verb(
    tokens: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line ends with the command that shows what the verb takes."""
    assert main.run(tokens) == 2
    assert one_line(capsys).endswith(f"{line}\n")


@pytest.mark.parametrize(
    "tokens",
    [
        ["serve", "--config", "/nowhere/proxy.toml"],
        ["serve", "--listen", "nonsense"],
        ["hosts", "podman", "--upstream", "nonsense"],
        ["stats", "--server", "nonsense"],
        ["warm"],
        ["warm", "not an image"],
        ["warm", "docker://alpine"],
        ["warm", ""],
        ["warm", "alpine", "--platform", "amd64"],
        ["lazy", "ls", "alpine", "--ztocs", "/nowhere"],
        ["lazy", "cat", "alpine", "/etc/os-release", "--ztocs", "/nowhere"],
        ["check", "--store-limit", "much"],
        ["verify", "--config", "/nowhere/proxy.toml"],
    ],
)
def test_wrong_configuration_is_one_line_and_exit_code_2(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake in the configuration is answered by one line."""
    assert main.run(tokens) == 2
    one_line(capsys)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StoreUnusable("locked by\nanother instance"), "registry-proxy: locked by another instance\n"),
        (OSError(98, "Address already in use"), "registry-proxy: Address already in use\n"),
        (
            FileNotFoundError(2, "No such file or directory", "a.tar"),
            "registry-proxy: a.tar: No such file or directory\n",
        ),
        (
            ExceptionGroup("tasks", [ExceptionGroup("deeper", [StoreUnusable("read-only")])]),
            "registry-proxy: read-only\n",
        ),
    ],
)
def test_failures_are_one_line_and_exit_code_1(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails at run time is told in one line, whatever wraps it."""
    monkeypatch.setattr(main, "app", fails(error))
    assert main.run(["serve"]) == 1
    assert one_line(capsys) == line


def test_a_mistake_of_ours_is_one_line_with_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a bug is one line, which says where it is."""
    monkeypatch.setattr(main, "app", fails(KeyError("chunk")))
    assert main.run(["serve"]) == 1
    assert re.search(rf"KeyError: 'chunk' at {re.escape(__file__)}:\d+\n$", one_line(capsys))


def test_ctrl_c_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted verb says nothing and leaves with the shell's code for it."""
    monkeypatch.setattr(main, "app", fails(KeyboardInterrupt()))
    assert main.run(["serve"]) == 130
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_while_the_program_is_loaded_is_quiet() -> None:
    """An interruption before the command line is even read is no traceback either."""
    script = """
import signal, sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "registry_proxy.cli.main":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupted())
from registry_proxy.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def fails(error: BaseException) -> object:
    def app(*_: object, **__: object) -> None:
        raise error

    return app


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version alone."""
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_no_verb_is_a_request_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a verb all verbs are listed, in the order in which one needs them."""
    assert main.run([]) == 0
    out = capsys.readouterr().out
    assert sorted(VERBS, key=out.index) == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples_that_parse(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help shows examples, and each of them is a command line this program takes."""
    assert main.run([verb, "--help"]) == 0
    assert "For example:" in capsys.readouterr().out
    examples = re.findall(r"`registry-proxy (.+?)`", main.app[verb].help)
    assert examples
    for example in examples:
        command, bound, _ = main.app.parse_args(example, print_error=False, exit_on_error=False)
        assert command.__name__ == verb
        assert bound is not None


@pytest.mark.parametrize("tokens", [["lazy", "index"], ["lazy", "ls"], ["publish"]])
def test_no_help_loses_words(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What help texts have in angle brackets would be taken for HTML and vanish; a switch needs no default."""
    assert main.run([*tokens, "--help"]) == 0
    out = capsys.readouterr().out
    assert "default: False" not in out
    assert "/.ztoc" not in out


def test_the_module_runs() -> None:
    """python -m registry_proxy is the same command."""
    done = subprocess.run(
        [sys.executable, "-m", "registry_proxy", "serve", "--listen", "x"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("registry-proxy: --listen: 'x' is not an address")
