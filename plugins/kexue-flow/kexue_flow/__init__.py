"""NICE, RealNVP and Glow: exact likelihood by invertible networks."""
