"""Speaker verification: trial lists, embeddings, back-ends, normalisation, calibration and what they are worth."""
