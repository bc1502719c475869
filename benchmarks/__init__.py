"""Judging transfer: zero-shot scores, their statistics, the report, and throughput beside peers."""
