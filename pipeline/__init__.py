"""tokenmill: from raw documents to the token shards of a whole pre-training curriculum."""

__version__ = "0.1.0"
