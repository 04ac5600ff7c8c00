"""Exact and fuzzy deduplication, connected components."""
