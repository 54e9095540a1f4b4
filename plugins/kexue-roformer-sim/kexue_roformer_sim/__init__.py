"""RoFormer-Sim and SimBERT: sentence vectors, search and rewriting."""
