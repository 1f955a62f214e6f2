"""A service that speaks TLS shows a certificate that lasts: robots refuse one that has expired."""

from __future__ import annotations

from ...common.problem import Problem
from ..options import Options
from ..service import Service

# A certificate that was made here is renewed by any run in its last thirty days.
EXPIRES_SOON_DAYS = 14.0


def check(service: Service, options: Options) -> list[Problem]:
    unit, certificate = service.unit, service.certificate
    if certificate is None:
        return []
    days = certificate.days_left
    if days is None:
        what = f"shows no certificate at 127.0.0.1:{service.installed.tls_port}: {certificate.reason}"
        return [Problem(options.host, unit, what, options.journal(unit))]
    if days > EXPIRES_SOON_DAYS:
        return []
    what = f"has a certificate that expires in {days:g} days" if days > 0 else "has a certificate that has expired"
    remedy = f"{options.redeploy} renews it; one of your own (vmauth_tls_cert) you bring anew first"
    return [Problem(options.host, unit, what, remedy)]
