"""Score edits: `python evaluate.py --checkpoint runs/NAME --data configs/data/plain.yaml --out DIR`."""

from mmig.run.programs import evaluate as main

if __name__ == "__main__":
    main()
