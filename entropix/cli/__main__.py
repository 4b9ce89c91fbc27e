"""`python -m entropix.cli` is `entropix`."""

import sys

from entropix.cli import main


sys.exit(main())
