"""``python -m mulligan``, and the command ``mulligan``."""

import gc
import sys

INTERRUPTED = 130
COLLECTION = (50_000, 10, 10)


def main() -> None:
    """Runs the command; an interrupt while it is still being loaded ends it without a word."""
    # Loading makes several hundred thousand objects that stay: looking through them for garbage
    # again and again, as Python does by default after each 700 new ones, is a tenth of a command.
    gc.set_threshold(*COLLECTION)
    try:
        from mulligan.cli.app import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
