"""Colour a sketch with one command, or run the test suite with one command.

    python quickstart.py my_sketch.png my_reference.png
    python quickstart.py --test
    python quickstart.py --trainer train --config demo-v1 --dry-run

Needs Python 3.10 or newer and nothing else: it makes its own environment, finds or fetches ComfyUI, starts it without a
window on this computer only, queues workflows/api/quickstart.json and writes the picture.
"""

import os
import sys

if sys.version_info < (3, 10):  # before the imports: the package below does not parse on an older Python
    sys.exit(
        "quickstart needs Python 3.10 or newer; this is Python %d.%d. Start it with a newer one, "
        "for example: python3.12 quickstart.py" % sys.version_info[:2]
    )

if os.path.dirname(os.path.abspath(__file__)) not in sys.path:  # python -I leaves the script's own folder out
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from quickstart_lib.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
