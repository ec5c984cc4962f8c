"""Audits of a trained model: membership inference, and whether its images copy the training set."""
