"""``make crash-test``: kill a training 50 times, resume it each time, and compare it with the unbroken one.

``python -m tests.crash.run [kills=50] [seed=…] [folder=…]``; the same seed kills at the same moments, as far as the
machine is as fast.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.crash.killing import Crashes, server
from tests.support.resuming import SCENARIOS

_KILLS_OF_A_RUN = 2


def main() -> None:
    """Run the trials, print each, and exit with 1 if one went wrong."""
    given = dict(each.split("=", 1) for each in sys.argv[1:])
    kills = int(given.get("kills", 50))
    seed = int(given.get("seed", time.time_ns() % 2**31))
    folder = Path(given["folder"]) if "folder" in given else Path(tempfile.mkdtemp(prefix="mtl-crash-"))
    print(f"{kills} kills, seed={seed}, in {folder}", flush=True)
    wrong = done = number = 0
    with server() as ready:
        crashes = Crashes(ready, folder, seed)
        while done < kills:
            scenario = list(SCENARIOS)[number % len(SCENARIOS)]
            by = "SIGTERM" if number % 4 == 3 else "SIGKILL"
            some = min(_KILLS_OF_A_RUN, kills - done)
            trial = crashes.trial(scenario, some, f"trial_{number}", by)
            moments = ", ".join(f"{moment:.2f} s" for moment in trial.moments)
            verdict = "equal" if not trial.wrong else f"WRONG: {', '.join(trial.wrong)}"
            print(f"{scenario:20} {by} after {moments:20} {verdict}", flush=True)
            wrong += bool(trial.wrong)
            done += some
            number += 1
    print(f"{number - wrong} of {number} runs, killed {done} times, equal their unbroken runs")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
