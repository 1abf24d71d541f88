"""``python -m tests.fuzz.run [TARGET …]``: many inputs through each target, and how they were taken."""

from __future__ import annotations

import sys
import time
import traceback

from tests.fuzz.running import fuzz
from tests.fuzz.targets import TARGETS


def main(names: list[str]) -> int:
    """Run the targets (all by default) and return the exit code: 1 if there was a finding."""
    total, failed, began = 0, [], time.perf_counter()
    print(f"{'target':20} {'inputs':>7} {'worked':>7} {'refused':>7} {'seconds':>8} {'slowest':>8}")
    for name, (target, inputs) in TARGETS.items():
        if names and name not in names:
            continue
        start = time.perf_counter()
        try:
            tally = fuzz(target, inputs)
        except Exception:  # noqa: BLE001 - a finding may be anything
            traceback.print_exc()
            failed.append(name)
            print(f"{name:20} a finding, see above", flush=True)
            continue
        total += tally.inputs
        seconds = time.perf_counter() - start
        row = f"{tally.inputs:7,} {tally.worked:7,} {tally.refused:7,} {seconds:8.0f} {tally.slowest:7.1f}s"
        print(f"{name:20} {row}", flush=True)
    print(f"{total:,} inputs in {time.perf_counter() - began:.0f} s, findings in {len(failed)} targets", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
