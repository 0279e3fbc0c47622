"""Token data sets as batches: dataset (what is on disk), mixture (which row comes when), packing (rows), loader."""
