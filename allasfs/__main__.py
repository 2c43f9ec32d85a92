"""``python -m allasfs`` is the same as ``allasfs``."""

import sys

from allasfs.app.cli import main

sys.exit(main())
