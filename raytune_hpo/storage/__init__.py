"""Runs that are kept in an object store: the store is the truth, a folder here a working copy."""
