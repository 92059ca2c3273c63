"""The SDK's module of exceptions."""

from nuclio_edge.core.response import ExceptionWithResponse

__all__ = ["ExceptionWithResponse"]
