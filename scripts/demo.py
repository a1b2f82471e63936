"""Serve a page on which photographs are restored in the browser; see --help."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2sb.errors import UserError
from i2sb.options.parser import Parser, device, number, path
from i2sb.runtime.script import run_script

DESCRIPTION = "Serve a page on which photographs are restored in the browser: drop one, restore, compare, download."
EPILOG = 'The page is made by gradio: pip install ".[demo]". What it is given stays on this machine.'


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("demo.py", DESCRIPTION, EPILOG)
    add = parser.add_argument
    names = "only these: names in results/, folders or files (default: the demo models and all in --results)"
    add("--ckpt", nargs="+", default=[], metavar="NAME", help=names)
    add("--results", type=path, default=Path("results"), metavar="DIR", help="folder of trained bridges")
    host = "address to listen at; 0.0.0.0: for everyone who reaches this machine"
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    add("--port", type=number(int, 0, 65535), default=7860, metavar="N", help="port to listen at; 0: any free one")
    where = "where to compute: cuda, cuda:INDEX, mps, cpu; auto: a GPU if there is one, else the CPU"
    add("--device", type=device, default="auto", metavar="DEVICE", help=where)
    opt = parser.parse(argv)

    def work() -> int:
        if importlib.util.find_spec("gradio") is None:
            raise UserError('the page needs gradio, which is not installed: pip install ".[demo]"')
        with listen(opt.host, opt.port) as listener, tempfile.TemporaryDirectory(prefix="i2sb-demo-") as folder:
            offer = on_offer(opt.ckpt, opt.results)
            os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
            import uvicorn

            from i2sb.page import Desk, application
            from i2sb.runtime.launch import pick_single_device

            desk = Desk(offer, pick_single_device(opt.device), Path(folder))
            desk.bridge(next(iter(offer)))  # which says here what is wrong with it
            server = uvicorn.Server(uvicorn.Config(application(desk), log_level="warning", timeout_graceful_shutdown=1))
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder is removed
            print(f"http://{opt.host}:{listener.getsockname()[1]} restores photographs; Ctrl-C ends it", flush=True)
            server.run(sockets=[listener])
        return 0

    return run_script("demo.py", work)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.  Raises UserError: taken, or no address of this machine."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port}: another program listens there; give another one, or 0 for any") from None
        raise UserError(f"--host {host} --port {port}: cannot listen there: {error.strerror}") from None


def on_offer(names: Sequence[str], results: Path) -> dict[str, Path]:
    """Name -> checkpoint: those named, else the demo models and all below `results`.  Raises UserError: none."""
    from i2sb.bridge import locate
    from i2sb.ckpt_util import trained

    found = {name: locate(name) for name in names} or trained(results)
    if not found:
        raise UserError(
            f"--results {results}: no checkpoint there; scripts/download_checkpoint.sh fetches published ones, "
            "train.py makes others"
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
