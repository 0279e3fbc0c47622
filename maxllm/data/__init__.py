"""Token data sets as batches: dataset (on disk), mixture and phases (which row comes when), packing, loader."""
