handler = 3
