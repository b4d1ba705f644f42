"""Following a run at a Replicate-compatible API to its end.

One follower looks for all who wait, at moments that ``polling`` chooses; what it sees is told on. Where the API tells
by webhooks how the run goes (``hook_desk``), a post makes it look at once and looks in between are rare. What the look
says is what counts: a post is a reason to look and nothing more.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable

from proxy.core.errors import UpstreamTimeout, UpstreamUnavailable
from proxy.upstreams.base import DEPLOYMENTS, Job, ModelTarget, Outcome, Progress
from proxy.upstreams.hook_desk import HookLine
from proxy.upstreams.polling import CAP_S, Crowds, Pacing, Turnstile, UsualTimes
from proxy.upstreams.replicate_client import Created, ReplicateClient, Trouble
from proxy.upstreams.replicate_documents import is_terminal, outcome_of, predict_s, progress_of, queued_s
from proxy.upstreams.replicate_versions import VersionNotes
from storage.records import JsonObject


class Follower:
    """Looks after runs, and remembers what those of each model took.

    Args:
        versions: where is noted which model a bare version belongs to.
        deadline_s: seconds after which a run is given up.
        sleep, clock, now: ways to wait and to tell the time (monotonic, epoch seconds).
    """

    def __init__(
        self,
        client: ReplicateClient,
        versions: VersionNotes,
        deadline_s: float,
        *,
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._versions = versions
        self._deadline_s = deadline_s
        self._sleep = sleep
        self._clock = clock
        self._now = now
        self._times = UsualTimes()
        self._turnstile = Turnstile()
        self._crowds = Crowds()

    async def follow(
        self,
        job: Job,
        created: Created,
        authorization: dict[str, str],
        began_at: float,
        report: Callable[[Progress], None],
        line: HookLine | None,
    ) -> Outcome:
        """Look until the prediction has ended.

        Args:
            began_at: when its create was sent, by the clock.
            line: where the API tells how it goes.

        Raises:
            UpstreamTimeout: it did not end before its deadline, or the API did not say so.
            UpstreamUnavailable: the API knows it no more, or its result is lost.
        """
        account = authorization.get("authorization", "")
        self._crowds.enter(account)
        try:
            prediction = await self._to_the_end(job, created, authorization, began_at, report, line)
        finally:
            self._crowds.leave(account)
        try:
            return outcome_of(prediction, now=self._now())
        except ValueError as error:
            raise UpstreamUnavailable(f"The run's result is lost: {error}.") from error

    async def _to_the_end(
        self,
        job: Job,
        created: Created,
        authorization: dict[str, str],
        began_at: float,
        report: Callable[[Progress], None],
        line: HookLine | None,
    ) -> JsonObject:
        """The prediction in its final state."""
        prediction, model = created.prediction, _label(job.target)
        progress = self._progress(created, prediction, began_at)
        report(progress)
        if job.target.version and not job.target.is_deployment:
            await self._versions.learn_model(job.target.version, prediction.get("model"))
        pacing = Pacing(self._times.of(model), spread=zlib.crc32(job.id.encode()) / 2**32)
        shows_output = False
        while not is_terminal(prediction):
            left_s = began_at + self._deadline_s - self._clock()
            if left_s <= 0:
                raise UpstreamTimeout("The run did not end in time.")
            await self._pause(pacing, job, prediction, authorization, began_at, left_s, line)
            seen = await self._client.look(prediction["id"], authorization)
            if isinstance(seen, Trouble):
                if not pacing.failed(is_refusal=seen.is_refusal, retry_after_s=seen.retry_after_s):
                    raise seen.error
                continue
            has_new_output = seen.get("output") != prediction.get("output")
            pacing.succeeded(has_new_status=seen["status"] != prediction["status"], has_new_output=has_new_output)
            prediction = seen
            if is_terminal(prediction):
                break
            shows_output |= has_new_output
            news = self._progress(created, prediction, began_at)
            if _is_news(progress, news):
                progress = news
                report(news)
        if prediction["status"] == "succeeded":
            self._learn(model, prediction, shows_output=shows_output)
        return prediction

    async def _pause(
        self,
        pacing: Pacing,
        job: Job,
        prediction: JsonObject,
        authorization: dict[str, str],
        began_at: float,
        left_s: float,
        line: HookLine | None,
    ) -> None:
        """Wait until the next look is due."""
        is_told = line is not None and line.is_told
        crowd = self._crowds.count(authorization.get("authorization", ""))
        age_s = self._age_s(prediction, began_at)
        pause_s = min(pacing.pause_s(age_s, crowd=crowd, is_told=is_told), left_s)
        if line is None:
            await self._sleep(pause_s)
        else:
            has_news = False
            until = self._clock() + pause_s
            # Webhooks do not tell how the logs grow. While a client watches them there are as many looks as without.
            while not has_news and (left_s := until - self._clock()) > 0:
                has_news = await line.wait(min(left_s, CAP_S))
                if is_told and job.is_watched():
                    break
        queued = self._turnstile.wait_s(self._clock())
        if queued > 0:
            await self._sleep(queued)

    def _age_s(self, prediction: JsonObject, began_at: float) -> float | None:
        """Seconds since the model began to work on it: of the API's clock only the difference of two times is used."""
        if prediction["status"] != "processing":
            return None
        return self._clock() - began_at - (queued_s(prediction) or 0.0)

    def _learn(self, model: str, prediction: JsonObject, *, shows_output: bool) -> None:
        end_s = predict_s(prediction)
        if end_s is not None:
            self._times.learn(model, end_s, shows_output=shows_output)

    def _progress(self, created: Created, prediction: JsonObject, began_at: float) -> Progress:
        return progress_of(
            prediction,
            at=self._now(),
            waited_s=self._clock() - began_at,
            has_all_files=created.has_all_files,
        )


def _label(target: ModelTarget) -> str:
    """What names the runs that are alike."""
    if target.is_deployment:
        return f"{DEPLOYMENTS}{target.model}"
    return target.version or target.model


def _is_news(before: Progress, after: Progress) -> bool:
    return (before.status, before.logs, before.is_booting, before.stream_url, before.output) != (
        after.status,
        after.logs,
        after.is_booting,
        after.stream_url,
        after.output,
    )
