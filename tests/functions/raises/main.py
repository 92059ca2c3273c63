def handler(context, event):
    try:
        inner()
    except KeyError as error:
        raise ValueError("outer") from error


def inner():
    return {}["missing"]


def wrong_arguments(context):
    pass
