"""Scores from trained models, percentile ranks, levels."""
