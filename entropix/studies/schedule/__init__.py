"""`entropix schedule`: a noise schedule optimised for data, and compared with those made by hand."""
