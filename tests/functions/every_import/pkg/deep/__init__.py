__all__ = ["star"]
star = 1
