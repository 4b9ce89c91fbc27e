"""`entropix schedule`: a noise schedule optimised for data, beside those made by hand."""
