"""What each loss term of stage 5 is worth: the stage trained again without it, from the same stage 4.

    python -m experiments.term_ablation --chain chain --steps 80

needs stage 4 of `experiments.chain_demo --name chain`. The whole stage 5 ("all") and every variant see the same samples
and noise for the same steps, and are compared on held-out samples: the held-out loss of the term itself and L_SDM, and
edits with generated responses. "no as, ar" leaves both attention losses out, "paper" weighs all terms by 1.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.chain_demo import LIMIT, STEPS, evaluate, fit, stage_seed
from experiments.chain_report import LAST, NUM_STAGES, SHARES, Chains, Row, new_table, points
from experiments.loss_table import TermValues, compare_runs, difference
from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.base.processor import share_cores
from mmig.evaluation.bootstrap import Interval, paired_difference
from mmig.evaluation.settings import read_yaml
from mmig.methods.mmig.objective import TERMS

CONFIG = f"stage{NUM_STAGES}"
WHOLE = "all"


def variants(weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Loss weights of the whole stage and of every variant, by what it leaves out."""
    without = {f"no {term}": {**weights, term: 0.0} for term in TERMS}
    more = {"no as, ar": {**weights, "as": 0.0, "ar": 0.0}, "paper": dict.fromkeys(weights, 1.0)}
    return {WHOLE: dict(weights)} | without | more


def variant_row(title: str) -> Row:
    """The run of a variant, sampled as the last stage is."""
    return replace(LAST, title=title, run=f"ablation-{title.replace(', ', '-').replace(' ', '-')}")


def loss_differences(title: str, losses: Mapping[str, TermValues], chain: str) -> list[str]:
    """Variant - whole: the loss of the term that it leaves out, "-" where that is not one term, and L_SDM."""
    term = title.removeprefix("no ")
    without, whole = (losses[row.run_directory(chain)] for row in (variant_row(title), variant_row(WHOLE)))
    own = signed(difference(without, whole, term)) if term in TERMS else "-"
    return [own, signed(difference(without, whole, "sdm"))]


def signed(interval: Interval) -> str:
    """A difference of losses with its interval."""
    return interval.told("+.4f")


def ablation_tables(chain: str, titles: list[str], losses: Mapping[str, TermValues], markdown: bool) -> list[Table]:
    """Differences variant - whole: of held-out losses, and of edits in points."""
    of_losses = new_table("Held-out losses: left out - whole [95 % interval]", markdown)
    of_edits = new_table("Edits, in points: left out - whole [95 % interval]", markdown)
    for table, columns in ((of_losses, ("its own loss", "L_SDM")), (of_edits, SHARES.values())):
        table.add_column("")
        for title in columns:
            table.add_column(title, justify="right")
    chains = Chains([chain])
    for title in titles:
        of_losses.add_row(title, *loss_differences(title, losses, chain))
        pairs = [[chains.values(row, metric) for row in (variant_row(title), variant_row(WHOLE))] for metric in SHARES]
        of_edits.add_row(title, *(points(paired_difference(*pair)) for pair in pairs))
    return [of_losses, of_edits]


def main(arguments: list[str] | None = None) -> None:
    """Train, evaluate and compare the variants."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--chain", default="chain", help="name given to `experiments.chain_demo --name` (default: chain)"
    )
    parser.add_argument("--data", default="configs/data/demo.yaml", help="data configuration, with the shards' folder")
    parser.add_argument("--steps", type=positive, default=STEPS[-1], help=f"of every variant (default: {STEPS[-1]})")
    parser.add_argument("--limit", type=positive, default=LIMIT, help=f"test samples (default: {LIMIT})")
    parser.add_argument("--seeds", type=positive, default=1, help="sampling seeds (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of that chain (default: 0)")
    parser.add_argument("--loss-limit", type=positive, help="validation samples of the losses (default: all)")
    parser.add_argument("--terms", nargs="+", choices=TERMS, help="only these (default: every term and the two others)")
    parser.add_argument("--markdown", action="store_true", help="tables for a document")
    options = parser.parse_args(arguments)
    config = Path(f"configs/demo/{CONFIG}.yaml")
    settings = variants(read_yaml(config)["model"]["init_args"]["loss_weights"])
    titles = [f"no {term}" for term in options.terms] if options.terms else [*settings][1:]
    seed = stage_seed(options.seed, NUM_STAGES)
    for title in (WHOLE, *titles):
        row, weights = variant_row(title), json.dumps(settings[title])
        more = ("--model.init_args.loss_weights", weights)
        run = f"{options.chain}-{row.run}"
        fit(CONFIG, options.data, run, f"{options.chain}-stage{NUM_STAGES - 1}", seed, options.steps, *more)
        evaluate(row, options.chain, options.data, options.limit, options.seeds)
    runs = [variant_row(title).run_directory(options.chain) for title in (WHOLE, *titles)]
    share_cores()
    with one_line_errors():
        losses = compare_runs(read_yaml(config), runs, Path(options.data), "val", 2, options.loss_limit)
        console = Console(highlight=False, width=200 if options.markdown else None)
        for table in ablation_tables(options.chain, titles, losses, options.markdown):
            console.print(table)


if __name__ == "__main__":
    main()
