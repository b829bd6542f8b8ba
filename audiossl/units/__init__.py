"""Unit discovery: k-means over features, unit files, their quality."""
