"""What this machine has of what trainings need, one line a part, with what to do: `python -m mmig.doctor`.

ok: as it should be; look: something is slow, missing or surprising; WRONG: nothing runs as it is, the exit status is 1.
"""

import argparse

from mmig.base.commands import OptionParser, one_line_errors
from mmig.doctor import devices, libraries, machine, surroundings
from mmig.doctor.findings import Finding, as_json, worst
from mmig.doctor.probe import probe


def examine() -> list[Finding]:
    """Everything, in the order in which it is best mended."""
    facts = probe()
    shared = machine.shared_memory()
    return [
        libraries.python(),
        libraries.packages(),
        libraries.torch_pair(facts),
        machine.processor(facts),
        machine.precision(facts),
        machine.threads(facts),
        machine.memory(),
        *([shared] if shared else []),
        devices.cuda(facts),
        devices.ranks(facts),
        surroundings.slurm(),
        surroundings.hub(),
        *machine.disks(),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Look, say it; 1 where something that is needed is wrong."""
    parser = OptionParser(
        prog="python -m mmig.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for machines, in the place of lines")
    options = parser.parse_args(arguments)
    findings = examine()
    print(as_json(findings) if options.json else "\n".join(map(str, findings)))
    return int(worst(findings) == "wrong")


if __name__ == "__main__":
    with one_line_errors():
        raise SystemExit(main())
