"""What peers cost: copies of models.

    python benchmarks/peers.py copy --rates none,1gbit --size 1024

``copy`` compares an import from a peer with curl (``peer_copies.py``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import peer_copies
from report import add_json_option, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["copy"])
    parser.add_argument("--rates", default="none,1gbit", help="of the link, for copy")
    parser.add_argument("--size", type=int, default=1024, metavar="MIB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    add_json_option(parser)
    options = parser.parse_args()
    rates = options.rates.split(",")
    write_json(
        options.json, peer_copies.measure(rates, options.size, options.rounds, options.folder)
    )


if __name__ == "__main__":
    main()
