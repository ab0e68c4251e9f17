"""`python -m tests.mutations [WORD ...]`: breaks the training steps on purpose and asks whether a test notices.

Every mutation changes one place of the source in a copy of the repository and runs the tests named beside it, without
the recorded numbers of the released code (golden set). A mutation that survives is a step that could be wrong without
anybody seeing it. WORD: only mutations whose name has all of these words. Not part of the suite: it takes minutes.
"""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
