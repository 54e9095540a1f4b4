"""Samplers that several plugins share, registered by :mod:`kexue_core.builtin`."""
