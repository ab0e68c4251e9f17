"""A training run: the loop, validation, reports, averages, memory."""
