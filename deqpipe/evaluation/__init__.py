"""Evaluation: trained models and images in, per-image records out."""
