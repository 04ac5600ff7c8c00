"""From measured supply to epoch weights, slices and the ledger."""
