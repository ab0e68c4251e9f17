"""The golden cases, one module per subject; each registers itself (see tests/golden/registry.py)."""
