"""`python -m tests.setup [packages | programs | images | image NAME | program NAME]`: all of it without an argument."""

import sys

from tests.setup import images, packages, programs
from tests.setup.cache import SetupError


def main(words: list[str]) -> int:
    """Does what the words say; the path of one image or program goes to standard output."""
    try:
        match words:
            case []:
                packages.install()
                programs.install()
                images.install()
            case ["packages"]:
                packages.install()
            case ["programs"]:
                programs.install()
            case ["images"]:
                images.install()
            case ["image", name] if name in images.RECIPES:
                print(images.layout(name))
            case ["program", name]:
                print(programs.program(name))
            case _:
                print(__doc__, f"Images: {', '.join(images.RECIPES)}", sep="\n", file=sys.stderr)
                return 2
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


sys.exit(main(sys.argv[1:]))
