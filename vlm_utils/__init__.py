"""Helpers of a course that builds a multi-image vision-language model, one module a lesson."""

__version__ = "0.1.0"
