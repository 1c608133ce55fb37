"""What studies and runs are doing, read from their folders while they are being written, without touching them."""
