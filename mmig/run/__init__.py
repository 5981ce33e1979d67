"""Runs: the command lines, the run directory with its manifest, resuming."""

import sys

from mmig.base.commands import end_in_one_line

if sys.argv[0] == "-m":  # `python -m mmig.run.NAME` finds its module here, whose imports take seconds
    end_in_one_line()
