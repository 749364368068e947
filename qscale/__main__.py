"""``python -m qscale`` is ``qscale``."""

from qscale.cli import main

if __name__ == "__main__":
    main(prog_name="qscale")
