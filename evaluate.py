"""Score edits: `python evaluate.py --checkpoint runs/NAME --data configs/data/plain.yaml --out DIR`."""

from mmig.run.evaluate_parser import build_parser
from mmig.run.programs import evaluate as main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    main()
