"""Outside formats to documents."""
