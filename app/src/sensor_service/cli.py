"""The command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__, config, logs
from .options import ConfigError

EXIT_FAILED = 1
EXIT_CONFIG = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 fine, 1 failed, 2 bad configuration or usage."""
    arguments = _parser().parse_args(argv)
    if arguments.check_config:
        return _check(arguments.check_config)
    path = arguments.config or os.environ.get("SENSOR_CONFIG")
    try:
        settings = config.load(Path(path) if path else None, os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    logs.configure(settings.log_level)

    from .server import ListenError, serve  # noqa: PLC0415  (not needed to refuse a configuration)

    try:
        return serve(settings)
    except ListenError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED


def _check(path: str) -> int:
    try:
        config.load(Path(path), {})
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    print(f"{path}: ok")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sensor_service",
        description="Sample sensors in the background and serve their readings over HTTP.",
        epilog="Environment: SENSOR_CONFIG (a file, if --config is not given), SENSOR_LISTEN and "
        "SENSOR_LOG_LEVEL (both win over the file).",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--config", metavar="FILE", help="read this TOML file")
    group.add_argument("--check-config", metavar="FILE", help="check this file and exit with 0 or 2")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser
