"""Work in a child process that can be killed.

A signal does not interrupt C code, so a parser that hangs can only be stopped from outside. A `Child` is started once
and serves many jobs; one that is late is killed with everything it started, and the next job gets a new one.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection, Pipe
from typing import Any

START_SECONDS = 60.0  # imports of a child on a busy machine; not part of a job's time
GRACE_SECONDS = 5  # after which a child whose parent is gone ends itself


class ChildError(Exception):
    """The job failed, was late, or took its process down. The message is one line."""


class Child:
    """Runs `function` ("module:name", one argument) in a process of its own, job after job."""

    def __init__(self, function: str, timeout_seconds: float, environment: dict[str, str] | None = None) -> None:
        self.function = function
        self.timeout_seconds = timeout_seconds
        self.environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None
        self.deadline = 0.0

    def call(self, job: Any) -> Any:
        self.submit(job)
        return self.result()

    def submit(self, job: Any) -> None:
        """Hands the job over and returns at once, so that the caller can work meanwhile; then `result()`."""
        connection = self._started()  # anew if it died between jobs: that costs nobody a document
        try:
            connection.send(job)
        except OSError as error:
            self.close()
            raise ChildError(f"the child process does not take the job: {error}") from None
        self.deadline = time.monotonic() + self.timeout_seconds

    def result(self) -> Any:
        """The submitted job's value. Raises `ChildError`."""
        connection, process = self.connection, self.process
        if connection is None or process is None:
            raise ChildError("no job was submitted")
        try:
            if not connection.poll(max(0.0, self.deadline - time.monotonic())):
                self.close()
                raise ChildError(f"took longer than {self.timeout_seconds:g} seconds and was killed")
            good, value = connection.recv()
        except (EOFError, OSError):
            try:
                code = process.wait(1)
            except subprocess.TimeoutExpired:
                code = None
            self.close()
            raise ChildError(f"took its process down (exit status {code})") from None
        if not good:
            raise ChildError(value)
        return value

    def close(self) -> None:
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
        if self.connection is not None:
            self.connection.close()
        self.process = self.connection = None

    def _started(self) -> Connection:
        if self.connection is not None and self.process is not None and self.process.poll() is None:
            return self.connection
        self.close()
        mine, its = Pipe()
        command = [sys.executable, "-m", "data_beam.child", self.function, str(its.fileno()), str(self.timeout_seconds)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            env={**os.environ, **self.environment},
            start_new_session=True,  # so that what it starts is killed with it
        )
        its.close()
        self.connection = mine
        if not mine.poll(START_SECONDS):
            self.close()
            raise ChildError(f"the child process for {self.function} did not start in {START_SECONDS:g} seconds")
        try:
            good, message = mine.recv()
        except EOFError:
            good, message = False, "it ended while starting"
        if not good:
            self.close()
            raise ChildError(f"the child process for {self.function} did not start: {message}")
        return mine


def main(function: str, descriptor: str, timeout_seconds: str) -> None:
    connection = Connection(int(descriptor))
    module, name = function.split(":")
    try:
        work = getattr(importlib.import_module(module), name)
    except Exception as error:
        connection.send((False, describe(error)))
        return
    connection.send((True, "ready"))
    # The default action of SIGALRM ends the process even inside C code: no orphan hangs on after its parent was killed.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, float(timeout_seconds) + GRACE_SECONDS)
        try:
            answer = (True, work(job))
        except Exception as error:
            answer = (False, describe(error))
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(answer)


def describe(error: BaseException) -> str:
    """An exception as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


if __name__ == "__main__":
    main(*sys.argv[1:])
