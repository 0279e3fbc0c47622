"""A client of the Perspective API (comments:analyze), which its provider ends on 31 December 2026.

The quota is kept by all processes of one machine together: when the next request may go is a number in the same SQLite
file that keeps the scores. Texts are known there by their hash only; the key is sent in a header, so that no URL, error
or log line has it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import sqlite3
import time
import urllib.error
import urllib.request
from typing import Any

from maxllm.config.errors import UserError
from maxllm.config.toxicity import PerspectiveConfig

logger = logging.getLogger("maxllm.progress")
MAX_BYTES = 20_480  # of a text; the service refuses longer ones
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts; doubled each time
ENDS = "the Perspective API ends on 31 December 2026; train a classifier of your own to replace it"
UNSUPPORTED = "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"


class PerspectiveError(RuntimeError):
    """No score could be had. Names the status, never the text or the key."""


class Perspective:
    def __init__(self, config: PerspectiveConfig, first_wait: float = FIRST_WAIT) -> None:
        self._config, self._first_wait = config, first_wait
        self._key = os.environ.get(config.key_variable, "").strip()
        if not self._key:
            raise UserError(
                f"toxicity.perspective: the environment variable {config.key_variable} is empty; put the API key "
                f"there, on every machine that runs workers ({ENDS})"
            )
        try:
            folder = os.path.dirname(os.path.abspath(config.cache))
            os.makedirs(folder, exist_ok=True)
            self._database = sqlite3.connect(config.cache, timeout=60, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS scores (key TEXT PRIMARY KEY, score REAL)")
            self._database.execute("CREATE TABLE IF NOT EXISTS quota (one INTEGER PRIMARY KEY, next REAL)")
            self._database.execute("INSERT OR IGNORE INTO quota VALUES (1, 0)")
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"toxicity.perspective.cache: {config.cache} cannot be used ({error}); name a local file"
            ) from None
        logger.warning("toxicity: %s", ENDS)

    def score(self, text: str) -> float | None:
        """Probability that a reader finds the head of the text toxic; None where its language is not supported.

        Raises PerspectiveError when the service refuses, or still fails after the last attempt.
        """
        sent = text.encode("utf-8", "replace")[:MAX_BYTES].decode("utf-8", "ignore")
        if not sent.strip():
            return 0.0
        key = hashlib.sha256(f"{self._config.attribute}\0{sent}".encode()).hexdigest()
        row = self._database.execute("SELECT score FROM scores WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return row[0]
        score = self._ask(sent)
        self._database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?)", (key, score))
        return score

    def close(self) -> None:
        self._database.close()

    def _ask(self, text: str) -> float | None:
        body = json.dumps(
            {
                "comment": {"text": text},
                "requestedAttributes": {self._config.attribute: {}},
                "doNotStore": True,
            }
        ).encode()
        wait = self._first_wait
        for attempt in range(1, self._config.attempts + 1):
            self._wait_for_quota()
            try:
                return self._send(body)
            except _TryAgain as error:
                if attempt == self._config.attempts:
                    raise PerspectiveError(f"{error} after {attempt} attempts") from None
                seconds = min(max(wait, error.seconds), LONGEST_WAIT)
                logger.info("toxicity: Perspective: %s; trying again in %.1f s", error, seconds)
                time.sleep(seconds)
                wait *= 2
        raise AssertionError("unreachable")

    def _send(self, body: bytes) -> float | None:
        request = urllib.request.Request(
            self._config.url, body, {"Content-Type": "application/json", "X-Goog-Api-Key": self._key}
        )
        try:
            with _OPENER.open(request, timeout=self._config.timeout_seconds) as response:
                answer = json.loads(response.read())
            return float(answer["attributeScores"][self._config.attribute]["summaryScore"]["value"])
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 429 or error.code >= 500:
                    raise _TryAgain(f"HTTP {error.code}", _seconds(error.headers.get("Retry-After"))) from None
                if error.code == 400 and UNSUPPORTED in error.read().decode("utf-8", "replace"):
                    return None
            raise PerspectiveError(
                f"HTTP {error.code}: the service refuses; check the key and its quota ({ENDS})"
            ) from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError: refused, reset, timed out
            raise _TryAgain(f"no answer ({type(error).__name__})") from None
        except (ValueError, KeyError, TypeError):
            raise PerspectiveError("the answer has no score in it") from None

    def _wait_for_quota(self) -> None:
        """Takes the next free moment, which no other process then has, and sleeps until it comes."""
        interval = 1 / self._config.requests_per_second
        self._database.execute("BEGIN IMMEDIATE")
        try:
            (free,) = self._database.execute("SELECT next FROM quota").fetchone()
            now = time.time()
            # After the clock was set back, a moment far ahead would stop everyone.
            moment = free if now < free <= now + 3600 else now
            self._database.execute("UPDATE quota SET next = ?", (moment + interval,))
        finally:
            self._database.execute("COMMIT")
        time.sleep(max(moment - time.time(), 0))

    def __reduce__(self) -> Any:
        raise TypeError("a client with a key is not sent to other processes; each makes its own")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to whatever host it names."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


class _TryAgain(Exception):
    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


def _seconds(header: str | None) -> float:
    try:
        return max(float(header or 0), 0.0)
    except ValueError:
        return 0.0
