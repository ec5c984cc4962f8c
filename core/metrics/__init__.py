"""Scores of image sets, membership-inference attacks, replication."""
