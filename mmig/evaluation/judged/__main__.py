"""Judge edited pictures on a benchmark whose scores a multimodal LLM gives, and compute its numbers.

OUT gets judge.jsonl, every reply as it was given, and for each mode metrics.MODE.json, table.MODE.md and
report.MODE.html. The same command goes on where a killed one stopped; another --mode asks nothing again.

Examples:
    python -m mmig.evaluation.judged imgedit --items Benchmark/singleturn --pictures edited --judge MODEL --out DIR
    python -m mmig.evaluation.judged gedit --items GEdit-Bench --pictures results/NAME --judge REPLIES.jsonl --out DIR
    python -m mmig.evaluation.judged rededit --items BENCH --checkpoint RUN --pictures edited --judge MODEL --out DIR
"""

import argparse
import logging
import shlex
import sys
from pathlib import Path

from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.base.processor import share_cores

NAMES = ("gedit", "imgedit", "imgedit_uge", "kris", "risebench", "rededit")


def build_parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to show its help."""
    parser = OptionParser(
        prog="python -m mmig.evaluation.judged",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=NAMES, metavar="BENCHMARK", help=", ".join(NAMES))
    parser.add_argument("--items", type=Path, required=True, help="the benchmark's own folder or file, as published")
    parser.add_argument(
        "--pictures",
        type=Path,
        required=True,
        help="edited pictures in the benchmark's layout, or the folder `pictures` of an evaluation by evaluate.py; "
        "with --checkpoint or --config those that are not there are made",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for judge.jsonl, metrics, table and report")
    parser.add_argument("--language", help="of the instructions, where a benchmark has two: en or cn")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="the benchmark's own file of prompts, which is read and not run (default: our words, whose numbers are "
        "not comparable with published ones)",
    )
    parser.add_argument(
        "--mode",
        choices=("corrected", "official"),
        default="corrected",
        help="how replies become numbers: strictly, what is missing counted with bounds; or as the official script "
        "does, defects and all (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what an official script draws (default: %(default)s)")
    _add_judge(parser)
    _add_editor(parser)
    return parser


def _add_editor(parser: argparse.ArgumentParser) -> None:
    made = parser.add_argument_group("making the pictures first", "those that are not there, one by one")
    editor = made.add_mutually_exclusive_group()
    editor.add_argument("--checkpoint", metavar="PATH", help="run directory, checkpoint or exported folder that edits")
    editor.add_argument("--config", metavar="YAML", help="with a section `editor`, or `model` before training")
    made.add_argument("--sampling", nargs="+", default=[], metavar="NAME=VALUE", help="other sampling settings")
    made.add_argument(
        "--resolution", type=positive, help="longer side of what the editor sees (default: that of its training)"
    )
    made.add_argument("--edit-seed", type=int, default=0, help="sampling seed (default: %(default)s)")


def _add_judge(parser: argparse.ArgumentParser) -> None:
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--judge",
        metavar="MODEL|REPLIES",
        help="folder or hub id of a model that transformers loads with a chat template, or a .jsonl of replies "
        "{item, question, reply} that were made elsewhere",
    )
    asked.add_argument(
        "--write-questions",
        action="store_true",
        help="ask nobody; write all questions to OUT/questions.jsonl, for a judge elsewhere",
    )
    parser.add_argument("--adapter", help="folder of a LoRA that is merged into the judge, as EditScore's")
    parser.add_argument("--dtype", default="float32", help="precision of the judge (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--max-tokens", type=positive, default=512, help="of a reply (default: %(default)s)")
    parser.add_argument(
        "--passes", type=positive, default=1, help="times each question is asked (default: %(default)s)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 for the most likely reply (default)")
    parser.add_argument("--top-p", type=float, default=0.9, help="with a temperature (default: %(default)s)")
    parser.add_argument("--top-k", type=positive, default=20, help="with a temperature (default: %(default)s)")
    parser.add_argument(
        "--judge-seed", type=int, default=42, help="pass i draws with this plus i (default: %(default)s)"
    )
    parser.add_argument(
        "--editscore",
        action="store_true",
        help="gedit as EditScore judges: scores of 0 to 25, and temperature 0.7 unless another is given",
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the program; what a user can mend ends in one line (MMIG_TRACEBACK=1 shows it all)."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    parsed = parser.parse_args(given)
    if parsed.editscore and parsed.benchmark != "gedit":
        parser.error("--editscore: asks gedit's questions alone")
    if not 0 <= parsed.temperature < float("inf") or not 0 < parsed.top_p <= 1:
        parser.error("--temperature, --top-p: expected a temperature of at least 0 and a share in (0,1]")
    if parsed.passes > 1 and not parsed.editscore and parsed.temperature == 0 and not _is_file(parsed.judge):
        parser.error("--passes: a model without --temperature says the same each time")
    parsed.command = shlex.join(["python", "-m", "mmig.evaluation.judged", *given])
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("mmig").setLevel(logging.INFO)
    share_cores()
    with one_line_errors():
        from mmig.evaluation.judged.program import run

        run(parsed)


def _is_file(judge: str | None) -> bool:
    return judge is None or judge.endswith((".jsonl", ".json"))


if __name__ == "__main__":
    main()
