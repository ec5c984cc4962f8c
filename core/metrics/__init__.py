"""Scores of image sets, membership-inference attacks, and tests of replication."""
