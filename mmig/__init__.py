"""Instruction-guided image editors: the library behind train.py, evaluate.py and edit.py."""

__version__ = "0.2.0"
