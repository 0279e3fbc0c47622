"""An encoder behind an OpenAI-compatible port: POST URL/embeddings {"model", "input"}.

The key, if the server wants one, is in the environment variable OPENAI_API_KEY of every worker, never in a config.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

import numpy as np

# Of each text; servers refuse what is longer than their model reads. About 2,000 tokens.
CHARACTERS = 8_000
TIMEOUT_SECONDS = 60.0
# Waits double from one second: about a minute in all.
TRIES = 7
_PASSING = (408, 409, 429, 500, 502, 503, 504)


class HttpEncoder:
    """Calls to it raise RuntimeError when the server refuses, or is not there after all tries."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url.rstrip("/") + "/embeddings", model

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        # An empty input is an error to most servers; it comes out as a vector like any other, which is dropped again.
        clean = [text.encode("utf-8", "replace").decode()[:CHARACTERS].strip() for text in texts]
        asked = [index for index, text in enumerate(clean) if text]
        if not asked:
            return np.zeros((len(texts), 1), np.float32)
        answer = self._post({"model": self.model, "input": [clean[index] for index in asked]})
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            found = np.array([row["embedding"] for row in rows], np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise RuntimeError(f"{self.url} answered something other than embeddings: {str(answer)[:200]}") from error
        if found.ndim != 2 or len(found) != len(asked):
            raise RuntimeError(f"{self.url} answered {len(found)} vectors for {len(asked)} texts")
        vectors = np.zeros((len(texts), found.shape[1]), np.float32)
        vectors[asked] = found
        return vectors

    def _post(self, body: dict) -> dict:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        for attempt in range(TRIES):
            wait = float(1 << attempt)
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                said = error.read(300).decode("utf-8", "replace")
                problem = f"{error.code} {said}"
                if error.code not in _PASSING:
                    break
                wait = _seconds(error.headers.get("Retry-After"), wait)
            except (OSError, ValueError) as error:  # no connection, a timeout, an answer cut short
                problem = str(error)
            if attempt + 1 < TRIES:
                time.sleep(wait)
        raise RuntimeError(f"{self.url}: {problem}")


def _seconds(header: str | None, otherwise: float) -> float:
    """Retry-After in seconds; its other form, a date, is not worth reading here."""
    return min(float(header), 60.0) if header and header.strip().isdigit() else otherwise
