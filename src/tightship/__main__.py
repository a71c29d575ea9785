"""`python -m tightship`."""

from __future__ import annotations

import sys

from tightship.cli import main

sys.exit(main())
