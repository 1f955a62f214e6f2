"""The sensor service: samples sensors in the background, serves their readings over HTTP."""

__version__ = "0.2.2"
