NAME = "red"


def later():
    import colour

    return colour.VALUE
