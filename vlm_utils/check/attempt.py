"""An attempt in its own process: `python -m vlm_utils.check.attempt code.py name verdict.json`.

`vlm_utils.course.progress` starts it, and ends it if it takes too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from vlm_utils import check
from vlm_utils.check.report import NOT_YET


def run_attempt(code: str, name: str, verdict: str) -> None:
    """Run the code in a file, check the function of that name that it defines, and write status and
    summary of the verdict to another file as JSON. What the code prints is lost."""
    namespace: dict = {"__name__": "__main__"}
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            exec(compile(Path(code).read_text(encoding="utf-8"), code, "exec"), namespace)
        except (Exception, SystemExit) as error:
            found = {"status": NOT_YET, "summary": f"{type(error).__name__}: {error}"}
        else:
            judged = getattr(check, name).judge(namespace.get(name))
            found = {"status": judged.status, "summary": judged.summary}
    Path(verdict).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    run_attempt(*sys.argv[1:])
