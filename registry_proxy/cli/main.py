"""The verbs, and what a person sees when one of them fails: one line and an exit code, never a traceback.

Exit codes: 0 done; 1 it did not work; 2 wrong usage or configuration; 130 interrupted.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from cyclopts.exceptions import UnusedCliTokensError

from registry_proxy import __version__
from registry_proxy.cli.check import check
from registry_proxy.cli.hosts import hosts
from registry_proxy.cli.lazy import lazy
from registry_proxy.cli.output import plainly
from registry_proxy.cli.publish import publish
from registry_proxy.cli.serve import serve
from registry_proxy.cli.stats import stats
from registry_proxy.cli.verify import verify
from registry_proxy.cli.warm import warm
from registry_proxy.errors import ConfigInvalid, RegistryProxyError

_HELP = """A pull-through lazy OCI registry proxy: byte ranges and a chunk cache in front of any registry.

Without a configuration file it listens on 127.0.0.1:5000 and knows the usual public registries.
"""
_EPILOGUE = "REGISTRY_PROXY_CONFIG in the environment names the configuration file for every command."

app = App(
    name="registry-proxy",
    help=_HELP,
    help_epilogue=_EPILOGUE,
    help_format="markdown",
    version=__version__,
    suppress_keyboard_interrupt=False,
)
app.command(serve, sort_key=1)
app.command(check, sort_key=2)
app.command(hosts, sort_key=3)
app.command(warm, sort_key=4)
app.command(publish, sort_key=5)
app.command(stats, sort_key=6)
app.command(verify, sort_key=7)
app.command(lazy)


def run(tokens: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    try:
        return _code(app(tokens, print_error=False, exit_on_error=False, result_action="return_value"))
    except CycloptsError as error:
        return _fail(_usage(error), 2)
    except ConfigInvalid as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `registry-proxy stats | head`: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the outermost frame: even a mistake of ours is one line, with its place
        return _fail(_told(error), 1)


def _code(result: object) -> int:
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int) -> int:
    print("registry-proxy:", " ".join(message.split()), file=sys.stderr)
    return code


def _usage(error: CycloptsError) -> str:
    """What is wrong with the words of the command line, and where the right ones are."""
    verb = " ".join(error.command_chain or ())
    extra = error.unused_tokens if type(error) is UnusedCliTokensError else None
    wrong = f"{verb} does not take {' '.join(extra)!r}" if extra else str(error).rstrip(".")
    return f"{wrong} (see {f'registry-proxy {verb}'.rstrip()} --help)"


def _told(error: BaseException) -> str:
    """One line about what went wrong; of a group, about its first error."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError):
        return plainly(error)
    if isinstance(error, RegistryProxyError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"a mistake in this program: {type(error).__name__}: {error}{place}"
