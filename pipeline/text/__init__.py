"""Row-local text work, one file per paper or idea."""
