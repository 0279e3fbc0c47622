"""What holds for a model in the Hugging Face layout: one set of checks for tests, the table, a user's folder."""
