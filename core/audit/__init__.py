"""Audits of a trained model: membership inference, and whether its images copy the training set."""

ATTACKS = ("loss", "secmi", "pia", "pfami", "clid", "sima")  # here, as the command line asks for them without torch
