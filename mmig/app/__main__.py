"""Serve a page on which pictures are edited: one or several editors, side by side.

Examples:
    python -m mmig.app
    python -m mmig.app --checkpoint runs/NAME --checkpoint configs/editors/tiny.yaml
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from mmig.base.commands import OptionParser, natural, one_line_errors
from mmig.base.processor import share_cores

LOOPBACK = "127.0.0.1"


def build_parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to show its help."""
    parser = OptionParser(
        prog="python -m mmig.app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="RUN|FOLDER|CONFIG",
        help="run, checkpoint, exported folder, or YAML of a configuration; again for more (default: the tiny editing "
        "UNet of this repository)",
    )
    parser.add_argument("--examples", metavar="YAML", help="pictures to begin with (default: of the small world)")
    parser.add_argument(
        "--host", default=LOOPBACK, help=f"address to listen at (default: {LOOPBACK}, this machine only)"
    )
    parser.add_argument("--port", type=natural, default=0, help="port (default: the first free one from 7860 on)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until Ctrl-C; what a user can mend ends in one line, not in a traceback."""
    parsed = build_parser().parse_args(arguments)
    share_cores()
    with one_line_errors():
        root = Path(tempfile.mkdtemp(prefix="mmig-app-"))
        os.environ |= {"GRADIO_TEMP_DIR": str(root / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            _serve(parsed, root)
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _serve(parsed: argparse.Namespace, root: Path) -> None:
    try:
        from mmig.app.serve import is_loopback, listen, serve
    except ModuleNotFoundError as error:
        raise ValueError(f"the page needs {error.name}; install it with: pip install 'mmig[app]'") from error
    from mmig.app.examples import SHIPPED, read_examples
    from mmig.app.handlers import Handlers
    from mmig.app.page import Page
    from mmig.app.systems import open_systems
    from mmig.base.batches import chosen_device

    with listen(parsed.host, parsed.port) as listening:
        systems = open_systems(parsed.checkpoint, chosen_device(parsed.device))
        examples = read_examples(SHIPPED if parsed.examples is None else Path(parsed.examples))
        handlers = Handlers(systems, examples, root)
        if not is_loopback(parsed.host):
            sys.stderr.write(
                f"warning: --host {parsed.host}: whoever reaches this machine can use the page, without a password and "
                "unencrypted; leave --host out to serve this machine alone\n"
            )
        names, port = ", ".join(system.name for system in systems), listening.getsockname()[1]
        url = f"http://{parsed.host}:{port}/"
        server = serve(Page(handlers), listening, lambda: print(f"{names}: open {url} (Ctrl-C ends it)", flush=True))
        try:
            server.run(sockets=[listening])
        finally:
            handlers.desk.close()


if __name__ == "__main__":
    main()
