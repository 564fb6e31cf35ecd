"""Every method through one list of laws."""
