import os


def handel(context, event):
    pass


def helper():
    pass
