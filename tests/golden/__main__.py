"""Command line of the golden runner: `python -m tests.golden DIR`.

Exit status: 0 when every implemented case is within its tolerance, 1 when one is not, 2 when nothing could be run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from . import files, runner
from .registry import SIDES


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.golden", description="Compare our modules with golden numbers.")
    parser.add_argument(
        "folder", nargs="?", type=Path, help="golden files (default: the full set, else the shipped ones)"
    )
    parser.add_argument("--case", nargs="+", default=[], metavar="NAME", help="only these files (without .safetensors)")
    parser.add_argument("--side", choices=(*SIDES, "both"), default="both")
    parser.add_argument("--verbose", action="store_true", help="also the error of every single output")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.WARNING)

    sides = SIDES if options.side == "both" else (options.side,)
    try:
        folder = options.folder or files.golden_folder() or files.SHIPPED
        outcomes, unknown, remarks = runner.run_folder(folder, options.case, sides)
    except (ValueError, RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2

    if outcomes:
        print(runner.table(outcomes))
    if options.verbose:
        for outcome in outcomes:
            print(f"\n{outcome.case} ({outcome.side}, {outcome.seconds:.1f} s)")
            for name, error in outcome.errors.items():
                print(f"  {error:.1e}  {name}")
    if text := runner.notes(outcomes):
        print(f"\n{text}")
    if unknown:
        print(f"\nnot yet implemented ({len(unknown)}): {', '.join(unknown)}")
    for remark in remarks:
        print(f"\n{remark}")
    if not outcomes and not unknown:
        return 2
    failed = [outcome for outcome in outcomes if not outcome.passed]
    print(f"\n{len(outcomes) - len(failed)} passed, {len(failed)} failed, {len(unknown)} not yet implemented")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
