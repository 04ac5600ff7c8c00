"""Pure compiled functions over Arrow buffers and arrays: no I/O, no settings."""
