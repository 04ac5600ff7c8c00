"""Trains and evaluates the models that `pipeline.quality` applies."""
