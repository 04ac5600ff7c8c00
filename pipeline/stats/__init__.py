"""Reads a run's files only: DuckDB views, trace, tables."""
