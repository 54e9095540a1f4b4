"""Flow matching in the plane."""
