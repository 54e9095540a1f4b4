"""Lipschitz constraints and SN-GAN for kexue: spectral norms that are right, GAN losses."""
