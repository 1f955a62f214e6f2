"""``python -m sensor_service``."""

import sys

from .cli import main

sys.exit(main())
