"""Edit or draw one image: `python edit.py --checkpoint runs/NAME --image IN.png --instruction "..." --out OUT.png`."""

from mmig.run.programs import edit as main

if __name__ == "__main__":
    main()
