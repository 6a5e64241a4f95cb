"""`python -m deqpipe.cli`: the command where it is not installed, or of one Python among several."""

import sys

from deqpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
