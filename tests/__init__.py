"""The tests mirror the tree; what needs ComfyUI asks for the fixture `pack`, tests/golden runs recorded numbers."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: also for python -m tests.bench, tests.golden
