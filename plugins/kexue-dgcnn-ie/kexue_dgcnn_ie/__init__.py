"""DGCNN information extraction for kexue: triples from text, half pointer and half tagging."""
