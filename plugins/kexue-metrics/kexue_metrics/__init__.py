"""Sample quality for kexue: small classifiers and the distances over their features."""
