"""Which curated documents go into training, how often, and in what shares."""
