"""`wan-ui cleanup`: removes from a data folder, while no server holds it, the files that nothing refers to."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wan_ui.config import number
from wan_ui.errors import HostError, WanUIError
from wan_ui.files import remove_parts
from wan_ui.jobs.lock import FolderLock
from wan_ui.jobs.store import Store
from wan_ui.jobs.stored_files import leftovers, remove_leftovers

DAY = 24 * 3600.0


def cleanup(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs the subcommand with its arguments and returns the exit code."""
    line = argparse.ArgumentParser(
        prog="wan-ui cleanup",
        description="Remove from the data folder what nothing refers to: videos without a row in the database, first "
        "frames and samples of nobody, unfinished files, and what the page sent. Refused while a server runs.",
    )
    default = environment.get("WAN_UI_DATA_DIR") or "./data"
    line.add_argument("--data-dir", type=Path, default=Path(default), metavar="DIR", help="default: ./data")
    line.add_argument("--dry-run", action="store_true", help="list the files and remove nothing")
    line.add_argument(
        "--older-than",
        type=_days,
        default=1.0,
        metavar="DAYS",
        help="only files that were not changed for so long (default: 1)",
    )
    chosen = line.parse_args(arguments)
    try:
        return _clean(chosen.data_dir.expanduser().absolute(), chosen.dry_run, chosen.older_than * DAY)
    except WanUIError as error:
        print(f"wan-ui: {error.message}", file=sys.stderr)
        return 1


def _days(text: str) -> float:
    try:
        days: float = number(float, at_least=0)(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return days


def _clean(data_dir: Path, dry_run: bool, older_than: float) -> int:
    database = data_dir / "jobs.sqlite"
    if not database.is_file():
        raise HostError("There is no jobs.sqlite in this folder: name the data folder with --data-dir.")
    lock = FolderLock(data_dir)
    try:
        store = Store(database)
        try:
            found = leftovers(store, data_dir, older_than)
        finally:
            store.close()
        for leftover in found:
            print(f"{leftover.size:>12,}  {leftover.path}  ({leftover.reason})")
        total = sum(leftover.size for leftover in found)
        print(f"{len(found)} files, {total / 1e6:,.1f} MB{': nothing was removed' if dry_run else ''}.")
        if dry_run:
            return 0
        for folder in (data_dir, *(path for path in data_dir.iterdir() if path.is_dir())):
            remove_parts(folder)
        left = remove_leftovers(data_dir, found)
    finally:
        lock.release()
    if left:
        print(f"wan-ui: {left} of them could not be removed; the lines above say why.", file=sys.stderr)
    return 1 if left else 0
