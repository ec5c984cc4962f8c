"""Image bytes to upright sRGB pixels, aspect buckets, and copies found by perceptual hash."""
