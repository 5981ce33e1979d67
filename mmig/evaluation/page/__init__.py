"""report.html and its tables: what evaluations found, in one file that opens without a network."""
