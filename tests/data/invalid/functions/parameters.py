def handler(context):
    return 1


def three(context, event, more):
    return 1


def keyword(context, event, *, limit):
    return 1


def init_context(context, more):
    pass
