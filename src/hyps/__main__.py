"""``python -m hyps`` is the command ``hyps``."""

from .cli import main

if __name__ == "__main__":
    main()
