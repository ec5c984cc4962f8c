"""Scores of image sets: FID, CLIP score, prompt following; intervals of their values."""
