"""Finds settings for which a model predicts a value or an extreme: a seeded global search within what is known."""
