"""A page to look at what a run kept and dropped: read.py → store.py → server.py, or page.py alone for one file."""
