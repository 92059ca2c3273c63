NAME = "blue"


def later():
    import colour

    return colour.VALUE
