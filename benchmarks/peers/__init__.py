"""Other packages' log densities beside ours, each in an environment of its own."""
