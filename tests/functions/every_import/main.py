"""Every way in which a function may import what lies beside it."""

import importlib

import helper
import pkg.deep.leaf
import pkg.deep.leaf as leaf
from helper import NAME as name
from pkg import near
from pkg.deep import *
from . import helper as relative


def handler(context, event):
    from pkg.deep.leaf import VALUE

    scope = {}
    exec("import helper as found", scope)
    return [
        helper is relative,
        helper is importlib.import_module("helper"),
        helper is __import__("helper"),
        helper is scope["found"],
        leaf is pkg.deep.leaf,
        leaf is importlib.import_module("pkg.deep.leaf"),
        leaf is importlib.import_module(".leaf", leaf.__package__),
        name == "helper",
        VALUE == star == near.VALUE == 1,
    ]


def missing_module(context, event):
    import pkg.nothing


def missing_name(context, event):
    from pkg import nothing
