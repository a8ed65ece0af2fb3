"""The sidecar's process: `python -m arsenale_inference`."""

import sys

from arsenale_inference.running import main

if __name__ == "__main__":
    sys.exit(main())
