"""`measure` of sequences of tokens."""




