"""Asking a service over HTTP: readiness, PromQL, the machine's own database."""
