"""Schedules, solvers and guidance."""
