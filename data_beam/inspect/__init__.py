"""A page to look at what a run kept and dropped, on this machine or as one file to send around."""
