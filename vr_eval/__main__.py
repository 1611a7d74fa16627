"""``python -m vr_eval`` is ``vr-eval``."""

import sys

from vr_eval.cli import main

sys.exit(main())
