"""Where actors write what they do: JSON lines in the state directory, which only its owner can enter."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

from domain.settings import Settings

LOGGER = "tenantry"
MOST_BYTES = 8 << 20


def log_to(settings: Settings, name: str) -> None:
    """Configures this process to append to `logs/NAME.log`, and to keep one older file beside it.

    Errors are written as their sentence, never with locals.
    """
    directory = Path(settings.state) / "logs"
    directory.mkdir(mode=0o700, exist_ok=True)
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [RotatingFileHandler(directory / f"{name}.log", maxBytes=MOST_BYTES, backupCount=1)]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: logging.getLogger(LOGGER),
    )
