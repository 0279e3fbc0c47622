"""How fast this machine trains: our step, its attention, a whole run, and PyTorch's twin of each in the same run."""
