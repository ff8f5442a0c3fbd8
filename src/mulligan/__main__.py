"""``python -m mulligan``, and the command ``mulligan``."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Runs the command; an interrupt while it is still being loaded ends it without a word."""
    try:
        from mulligan.cli.app import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
