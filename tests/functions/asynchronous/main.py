import functools


async def init_context(context):
    pass


async def handler(context, event):
    return 1


def plain(context, event):
    return 1


partial = functools.partial(handler)


class Callable:
    async def __call__(self, context, event):
        return 1


instance = Callable()
