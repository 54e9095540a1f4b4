"""Variational autoencoders for kexue: four decoders, class-wise priors, IWAE bounds."""
