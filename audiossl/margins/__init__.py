"""Margins: what makes the positive's cosine harder to satisfy, for any loss that compares cosines; one file each."""
