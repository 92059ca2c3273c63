"""`python -m nuclio_edge` is the command line."""

import sys

from nuclio_edge.cli import main

sys.exit(main())
