"""Edit one image with one instruction, or draw one; pictures and sounds may be attached.

Examples:
    python edit.py --checkpoint runs/NAME --image IN.png --instruction "make the ball blue" --out OUT.png
    python edit.py --config configs/editors/oracle_text.yaml --instruction "a red circle" --out OUT.png
"""

from mmig.base.commands import one_line_errors
from mmig.base.processor import share_cores
from mmig.run.edit_parser import build_parser


def main(arguments: list[str] | None = None) -> None:
    """Run edit.py; what a user can mend ends in one line, not in a traceback (MMIG_TRACEBACK=1 shows it)."""
    parsed = build_parser(__doc__).parse_args(arguments)
    share_cores()
    with one_line_errors():
        from mmig.run.edit import run

        run(parsed)


if __name__ == "__main__":
    main()
