"""What a run needs and costs, before a machine is rented: programs compiled ahead of time, and what they say."""
