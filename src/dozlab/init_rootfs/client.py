"""HTTP as downloads need it: retries, few redirects, own CAs, credentials by host, silence and trickle seen.

httpx2 reads the proxy variables (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY) itself. Knows nothing of images.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from dozlab.init_rootfs.auth import Credentials
from dozlab.init_rootfs.urls import shown
from dozlab.lib.errors import DozlabError, TransientError
from dozlab.lib.units import format_seconds, format_size

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
log = logging.getLogger(__name__)

_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_PROGRESS = 1 << 16
_READ = 1 << 18
"""Bytes read from a connection at once: four times httpcore's own measure, with a fourth of its work in Python."""


@dataclass(frozen=True)
class Limits:
    """How patient a download is. Seconds and bytes."""

    back_off: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Before the second attempt, the third, ...; each is varied by a quarter, so that many clients do not come at once.
    An attempt that has brought something counts as the first again."""
    connect: float = 10.0
    silence: float = 30.0
    answer: float = 40.0
    """Until the head of an answer must be there, however much of it drips in meanwhile."""
    slow_window: float = 30.0
    """A connection that brings fewer than `slow_bytes` in so many seconds of waiting is given up: 1 KiB/s."""
    slow_bytes: int = 30 << 10
    redirects: int = 5


class Cut(Exception):
    """A connection broke off, or is as good as dead; the text says how."""


class Auth(Protocol):
    """Who we are to a server."""

    def header(self, url: str) -> str:
        """Return the Authorization header for a URL, empty for none."""

    def renew(self, response: httpx2.Response) -> bool:
        """Take up the challenge of a 401; tell whether asking again is worth it."""


class FromFile:
    """Credentials as they are in the file: a refusal is final."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def header(self, url: str) -> str:
        """Return the Authorization header for a URL, empty for none."""
        return self._credentials.header(url)

    def renew(self, response: httpx2.Response) -> bool:
        """Tell that there is nothing else to try."""
        return False


class Client:
    """One client for one fetch; its connections may be used by several threads.

    :param ca_file: certificates believed beside the system's (or those of SSL_CERT_FILE)
    :raises DozlabError: when they cannot be read
    """

    def __init__(self, credentials: Credentials | None = None, *, ca_file: Path | None = None, limits: Limits) -> None:
        import httpcore2
        import httpx2

        httpcore2.HTTP11Connection.READ_NUM_BYTES = _READ
        self._httpx = httpx2
        self.credentials = credentials or Credentials()
        self.limits = limits
        context = ssl.create_default_context()
        if ca_file:
            try:
                context.load_verify_locations(ca_file)
            except (OSError, ssl.SSLError) as error:
                reason = "no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
                raise DozlabError(f"cannot use IMAGE_CA_FILE {ca_file}: {reason}") from error
        self._client = httpx2.Client(
            verify=context,
            timeout=httpx2.Timeout(limits.silence, connect=limits.connect),
            headers={"User-Agent": "dozlab", "Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def open(
        self, url: str, headers: Mapping[str, str], *, auth: Auth | None = None, method: str = "GET",
        content: Callable[[], Iterable[bytes] | bytes] | None = None,
    ) -> httpx2.Response:  # fmt: skip
        """Send one request, follow redirects, and return the answer with its body unread, whatever its status.

        :param content: called for the body of each request sent
        :raises DozlabError: when it leads nowhere; TransientError when a later try may work
        """
        auth = auth or FromFile(self.credentials)
        at, asked_again = url, False
        for _ in range(self.limits.redirects + 2):
            extra = {"Authorization": value} if (value := auth.header(at)) else {}
            response = self._send(method, at, {**headers, **extra}, content() if content else None, url)
            if response.status_code == 401 and not asked_again:
                asked_again = True
                if auth.renew(response):
                    response.close()
                    continue
            if response.status_code not in _REDIRECTS or "location" not in response.headers:
                return response
            response.close()
            before, at = at, str(response.url.join(response.headers["location"]))
            if before.startswith("https:") and not at.startswith("https:"):
                raise DozlabError(f"{shown(url)} redirects from https to {shown(at)}", hint="give that address instead")
        raise DozlabError(f"{shown(url)} redirects more than {self.limits.redirects} times")

    def _send(
        self, method: str, at: str, headers: Mapping[str, str], content: Iterable[bytes] | bytes | None, url: str
    ) -> httpx2.Response:
        try:
            request = self._client.build_request(method, at, headers=dict(headers), content=content)
            if content is not None:
                return self._client.send(request, stream=True)  # an upload takes its time
            response = _Answer(lambda: self._client.send(request, stream=True)).within(self.limits.answer)
            if response is None:
                raise TransientError(f"cannot download {shown(url)}: no answer in {format_seconds(self.limits.answer)}")
            return response
        except (self._httpx.UnsupportedProtocol, self._httpx.InvalidURL) as error:
            raise DozlabError(f"cannot download {shown(url)}: {words(error)}") from error
        except self._httpx.TransportError as error:
            if isinstance(reason := _root(error), ssl.SSLCertVerificationError):
                raise DozlabError(
                    f"cannot download {shown(url)}: its certificate is not trusted ({reason.verify_message})",
                    hint="name the file with its CA in IMAGE_CA_FILE",
                ) from error
            raise TransientError(f"cannot download {shown(url)}: {words(error)}") from error

    def get(
        self, url: str, headers: Mapping[str, str], *, auth: Auth | None = None, wanted: Iterable[int] = (200,)
    ) -> httpx2.Response:
        """Return an answer of a wanted status.

        :raises DozlabError: for any other status; TransientError where it may pass
        """
        response = self.open(url, headers, auth=auth)
        if response.status_code not in wanted:
            response.close()
            raise refusal(response, url)
        return response

    def text(self, url: str, headers: Mapping[str, str], most: int, *, auth: Auth | None = None) -> bytes:
        """Return a small document.

        :raises DozlabError: when there is none, or it has more than `most` bytes
        """
        response = self.get(url, headers, auth=auth)
        data = bytearray()
        try:
            for block in self.body(response):
                data += block
                if len(data) > most:
                    raise DozlabError(f"{shown(url)} is too long")
        except Cut as cut:
            raise TransientError(f"download of {shown(url)} broke off: {cut}") from cut
        finally:
            response.close()
        return bytes(data)

    def body(self, response: httpx2.Response) -> Iterator[bytes]:
        """Yield the body's bytes as they come.

        :raises Cut: when they stop coming, or all but do
        """
        blocks = response.iter_raw()
        waited, came = 0.0, 0
        while True:
            begun = time.monotonic()
            try:
                block = next(blocks, None)
            except (self._httpx.TransportError, self._httpx.StreamError) as error:
                raise Cut(words(error)) from error
            if block is None:
                return
            waited, came = waited + time.monotonic() - begun, came + len(block)
            if waited >= self.limits.slow_window:
                if came < self.limits.slow_bytes:
                    least = format_size(self.limits.slow_bytes / self.limits.slow_window)
                    raise Cut(
                        f"too slow, {format_size(came)} in {format_seconds(waited)} (at least {least}/s are wanted)"
                    )
                waited, came = 0.0, 0
            yield block

    def retry(self, attempt: Callable[[], T]) -> T:
        """Return what an attempt returns, trying again where a later one may work."""
        for pause in self.limits.back_off:
            try:
                return attempt()
            except TransientError as error:
                pause = varied(pause)
                log.warning("%s; trying again in %.1f s", error.message, pause)
                time.sleep(pause)
        return attempt()


class _Answer:
    """The answer to one request, fetched by a thread: each read has a limit of its own, their sum has none."""

    def __init__(self, send: Callable[[], httpx2.Response]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._there = threading.Event()
        self._response: httpx2.Response | None = None
        self._fault: BaseException | None = None
        self._given_up = False

    def within(self, seconds: float) -> httpx2.Response | None:
        """Return it, None when it is not there in time: then the thread is left behind, and closes what comes."""
        threading.Thread(target=self._fetch, name="answer", daemon=True).start()
        try:
            self._there.wait(seconds)
        finally:
            with self._lock:
                self._given_up = not self._there.is_set()
        if self._fault:
            raise self._fault
        return self._response

    def _fetch(self) -> None:
        try:
            self._response = self._send()
        except BaseException as error:  # raised where it is waited for
            self._fault = error
        with self._lock:
            self._there.set()
            late = self._given_up
        if late and self._response:
            self._response.close()


class Patience:
    """Counts the cuts of one transfer, and waits after each as long as it may."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._failures, self._at = limits, 0, 0

    def wait(self, fault: TransientError, done: int) -> None:
        """Wait before going on at byte `done`.

        :raises TransientError: the fault, when it is one too many without anything having come
        """
        if done - self._at >= _PROGRESS:
            self._failures = 0
        self._at = done
        if self._failures >= len(self._limits.back_off):
            raise fault
        pause = varied(self._limits.back_off[self._failures])
        self._failures += 1
        log.warning("%s; going on in %.1f s", fault.message, pause)
        time.sleep(pause)


def varied(seconds: float) -> float:
    """Return about as many seconds."""
    return seconds * random.uniform(0.75, 1.25)  # noqa: S311  (no secret)


def refusal(response: httpx2.Response, url: str) -> DozlabError:
    """Return the error for an answer that was not wanted."""
    status = response.status_code
    kind: type[DozlabError] = TransientError if status in _TRANSIENT_STATUS else DozlabError
    hint = "give credentials in a file, with IMAGE_AUTH_FILE" if status in (401, 403) else ""
    return kind(f"cannot download {shown(url)}: the server says {status} {response.reason_phrase}".rstrip(), hint=hint)


def words(error: BaseException) -> str:
    """Return an error's words without its errno number; the type's name where it has none."""
    text = str(error)
    return text.partition("] ")[2] or text or type(error).__name__


def _root(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
