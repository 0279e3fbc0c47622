"""Source code: which language a file is in, whether it parses, what it is made of, under which licence it is."""
