"""Readers of training data. Importing this imports torch and Pillow."""

from kexue_core.training.data.images import Images, open_images, random_flip

__all__ = ["Images", "open_images", "random_flip"]
