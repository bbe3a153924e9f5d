"""``registry-proxy`` and ``python -m registry_proxy``."""

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from registry_proxy.cli.main import run
    except KeyboardInterrupt:  # the program takes a moment to be loaded
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
