from .deep.leaf import VALUE
