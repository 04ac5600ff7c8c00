"""Source files: language, licence, repository order, fill-in-the-middle."""
