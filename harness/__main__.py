"""``python -m harness``.

The current directory goes to the end of the import path before anything else is imported: a user's own ``models`` or
``stores`` folder there must not stand in front of ours, but a plug-in of theirs must still be found.
"""

from __future__ import annotations

import sys
from pathlib import Path

_here = str(Path.cwd())
sys.path[:] = [entry for entry in sys.path if entry not in ("", _here)] + [_here]

from harness.cli import main  # noqa: E402 - after the path is in order

sys.exit(main(sys.argv[1:]))
