"""Energy-based models for kexue: contrastive divergence, Langevin, MALA and HMC samplers."""
