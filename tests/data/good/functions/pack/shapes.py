import functools


@functools.lru_cache
def decorated(one):
    return one


assigned = functools.partial(decorated)
short = lambda context, event: None

if True:
    def inside(context, event, *more):
        return None
