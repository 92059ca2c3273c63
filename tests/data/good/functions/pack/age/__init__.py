def setup(value):
    return value
