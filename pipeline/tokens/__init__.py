"""Tokenize, pack, Arrow shards, Megatron files."""
