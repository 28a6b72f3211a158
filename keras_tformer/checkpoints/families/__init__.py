"""Families of Hugging Face models: one file each, with its tables of weights."""
