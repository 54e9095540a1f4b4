"""A plugin with one small model and one adapter."""
