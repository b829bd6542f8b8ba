"""What a representation knows: probes, reports."""
