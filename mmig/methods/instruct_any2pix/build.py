"""Command line: `python -m mmig.methods.instruct_any2pix.build STEP --source SHARDS --out DIR ...`.

Makes MM-Inst's kind of data (Li et al. 2023, section 9.1) of shards with pictures and captions, such as LAION's, in
three steps, each from shards to shards:

1. captions: BLIP-2 captions the pictures anew (--captioner);
2. instructions: a causal language model (--model) writes an instruction with pictures and sounds in brackets, and the
   caption of the result, for each caption; what the rules refuse is counted by reason;
3. targets: a text-to-image pipeline (--pipeline) draws the result from the inverted picture, for the last phase.

DIR/conversion.json counts what came of every sample. Killed, a step goes on where it was. With --record the first two
ask nothing twice, and that file (JSON lines `{"key": ..., "answer": TEXT}`) can be given to --replay, as can what
another model wrote. Under torchrun, or with RANK and WORLD_SIZE set, shard i belongs to rank i % WORLD_SIZE.
"""

import argparse

from datamodules.shards import map_shards
from mmig.base.commands import OptionParser, positive
from mmig.cache.map import AnswerError
from mmig.cache.mapping import add_shard_options, map_in_one_line
from mmig.methods.instruct_any2pix.mm_inst import Captions, Instructions
from mmig.methods.instruct_any2pix.pseudo_targets import PseudoTargets

BATCH_SIZE = 64
"""Samples read at once."""
PRECISIONS = ("float32", "bfloat16", "float16")


def main(arguments: list[str] | None = None) -> None:
    """Make shards; what a user can mend ends in one line."""
    options = _parser().parse_args(arguments)

    def make() -> tuple[Captions | Instructions | PseudoTargets, int]:
        if options.step == "targets":
            names = ("pipeline", "resolution", "num_steps", "guidance_scale", "device")
            return PseudoTargets(**{name: getattr(options, name) for name in names}), BATCH_SIZE
        name = {"captions": "captioner", "instructions": "model"}[options.step]
        if getattr(options, name) is None and not options.replay:
            raise AnswerError(f"no {name} is named: give --{name} MODEL, or --replay FILE with answers")
        names = (name, "batch_size", "max_tokens", "dtype", "device")
        own = {name: getattr(options, name) for name in names}
        mapper = Captions(**own) if options.step == "captions" else Instructions(**own, seed=options.seed)
        return mapper, max(BATCH_SIZE, options.batch_size)

    map_in_one_line(make, options, map_shards)


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    for name, model, most in (("captions", "--captioner", 20), ("instructions", "--model", 200)):
        step = steps.add_parser(name)
        add_shard_options(step)
        step.add_argument(model, metavar="MODEL", help="folder or hub id; left out, answers are replayed alone")
        step.add_argument("--batch-size", type=positive, default=8, help="asked at once (default: %(default)s)")
        step.add_argument("--max-tokens", type=positive, default=most, help="of an answer (default: %(default)s)")
        step.add_argument("--dtype", choices=PRECISIONS, default="float32", help="precision (default: %(default)s)")
        step.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
        if name == "instructions":
            step.add_argument("--seed", type=int, default=0, help="of the operations asked for (default: %(default)s)")
    targets = steps.add_parser("targets")
    add_shard_options(targets)
    targets.add_argument("--pipeline", required=True, help="folder or hub id of a text-to-image pipeline")
    targets.add_argument("--resolution", type=positive, default=1024, help="pixels a side (default: %(default)s)")
    targets.add_argument("--num-steps", type=positive, default=50, help="of each way (default: %(default)s)")
    targets.add_argument("--guidance-scale", type=float, default=7.5, help="of drawing (default: %(default)s)")
    targets.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
