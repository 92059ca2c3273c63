import helper

VALUE = 1 if helper.NAME == "helper" else 0


def read():
    return VALUE
